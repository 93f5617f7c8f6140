//! Container events: the runtime's own CRI stream where it has one, else containerd's event service.

use std::time::Duration;

use futures::{StreamExt, stream};
use prost::Message;
use tonic::transport::Channel;

use crate::{
    Containerd, Error, Event, EventKind, EventStream, Failure, Runtime,
    v1::{self, ContainerEventType},
    wire::containerd::{
        services::events::v1::{SubscribeRequest, TaskEvent, TaskExit, events_client::EventsClient},
        types::Envelope,
    },
};

const OPERATION: &str = "Subscribe";

/// Prefers CRI's event stream; containerd before 1.7 answers `Unimplemented`, then its own service is used.
///
/// The calls are made when the stream is polled first: a server may send nothing, not even headers, before the first event.
pub(crate) fn subscribe(runtime: Containerd, channel: Channel) -> EventStream {
    stream::once(connect(runtime, channel))
        .flat_map(|connected| match connected {
            Ok(events) => events,
            Err(error) => stream::iter([Err(error)]).boxed(),
        })
        .boxed()
}

async fn connect(runtime: Containerd, channel: Channel) -> Result<EventStream, Error> {
    let request = v1::GetEventsRequest {};
    match runtime.runtime_service().get_container_events(request).await {
        Ok(answer) => {
            let events = answer.into_inner().filter_map(|item| async move {
                match item {
                    Ok(event) => from_cri(&event).map(Ok),
                    Err(status) => Some(Err(Error::of(OPERATION, "container events", &status))),
                }
            });
            Ok(events.boxed())
        }
        Err(status) if status.code() == tonic::Code::Unimplemented => of_containerd(runtime, channel).await,
        Err(status) => Err(Error::of(OPERATION, "container events", &status)),
    }
}

fn from_cri(event: &v1::ContainerEventResponse) -> Option<Event> {
    let kind = match event.container_event_type() {
        ContainerEventType::ContainerCreatedEvent => EventKind::Created,
        ContainerEventType::ContainerStartedEvent => EventKind::Started,
        ContainerEventType::ContainerStoppedEvent => EventKind::Stopped,
        ContainerEventType::ContainerDeletedEvent => EventKind::Deleted,
    };
    (!event.container_id.is_empty()).then(|| Event { id: event.container_id.clone(), kind })
}

async fn of_containerd(runtime: Containerd, channel: Channel) -> Result<EventStream, Error> {
    let namespace = crate::import::NAMESPACE;
    let filters = ["/tasks/start", "/tasks/exit", "/tasks/oom", "/tasks/delete"]
        .iter()
        .map(|topic| format!("namespace=={namespace},topic==\"{topic}\""))
        .collect();
    let answer = EventsClient::new(channel)
        .subscribe(SubscribeRequest { filters })
        .await
        .map_err(|status| Error::of(OPERATION, "containerd events", &status))?;
    let events = answer.into_inner().flat_map_unordered(64, move |item| {
        let runtime = runtime.clone();
        stream::once(async move {
            let envelope = match item {
                Ok(envelope) => envelope,
                Err(status) => {
                    return Some(Err(Error::of(OPERATION, "containerd events", &status)));
                }
            };
            let event = match from_containerd(&envelope) {
                Ok(event) => event?,
                Err(error) => return Some(Err(error)),
            };
            if event.kind == EventKind::Stopped {
                settle(&runtime, &event.id).await;
            }
            Some(Ok(event))
        })
        .filter_map(|event| async move { event })
        .boxed()
    });
    Ok(events.boxed())
}

/// The event of one envelope; `None` for processes that were executed in a container.
fn from_containerd(envelope: &Envelope) -> Result<Option<Event>, Error> {
    let payload = envelope.event.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    let broken = |e: prost::DecodeError| {
        Error::new(OPERATION, envelope.topic.clone(), Failure::Other, format!("event payload: {e}"))
    };
    let kind = match envelope.topic.as_str() {
        "/tasks/start" => EventKind::Started,
        "/tasks/oom" => EventKind::OutOfMemory,
        "/tasks/delete" => EventKind::Deleted,
        "/tasks/exit" => {
            let exit = TaskExit::decode(payload).map_err(broken)?;
            let own = exit.id == exit.container_id;
            return Ok(own.then_some(Event { id: exit.container_id, kind: EventKind::Stopped }));
        }
        _ => return Ok(None),
    };
    let id = TaskEvent::decode(payload).map_err(broken)?.container_id;
    Ok(Some(Event { id, kind }))
}

/// containerd's CRI side handles the same exit event at the same time; waits until its answer tells of the exit.
async fn settle(runtime: &Containerd, id: &str) {
    let mut pause = Duration::from_millis(4);
    // Under load, or when it has to try again, it takes its time.
    for _ in 0..40 {
        match runtime.container_status(id).await {
            Ok(status) if status.state() == v1::ContainerState::ContainerRunning => {}
            Ok(_) => return,
            Err(error) if error.is_not_found() => match runtime.pod_sandbox_status(id).await {
                Ok(status) if status.state() == v1::PodSandboxState::SandboxReady => {}
                _ => return,
            },
            Err(_) => return,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, message: &impl Message) -> Envelope {
        let event = Some(prost_types::Any { type_url: String::new(), value: message.encode_to_vec() });
        Envelope { timestamp: None, namespace: "k8s.io".into(), topic: topic.into(), event }
    }

    #[test]
    fn exits_of_containers_are_told_from_exits_of_executed_commands() {
        let own = TaskExit { container_id: "a".into(), id: "a".into(), pid: 1, exit_status: 3 };
        let exec = TaskExit { id: "e".into(), ..own.clone() };
        assert_eq!(
            from_containerd(&envelope("/tasks/exit", &own)).unwrap(),
            Some(Event { id: "a".into(), kind: EventKind::Stopped })
        );
        assert_eq!(from_containerd(&envelope("/tasks/exit", &exec)).unwrap(), None);
        assert_eq!(from_containerd(&envelope("/tasks/paused", &own)).unwrap(), None);
        let oom = TaskEvent { container_id: "b".into() };
        assert_eq!(
            from_containerd(&envelope("/tasks/oom", &oom)).unwrap(),
            Some(Event { id: "b".into(), kind: EventKind::OutOfMemory })
        );
    }
}
