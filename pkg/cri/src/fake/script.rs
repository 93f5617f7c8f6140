//! What a test tells the fake runtime, and asks it.

use super::{Fake, end};
use crate::{EventKind, archive, v1};

impl Fake {
    /// Makes an image present.
    pub fn add_image(&self, name: &str) {
        let name = archive::normalize(name);
        let image = v1::Image {
            id: archive::digest(name.as_bytes()),
            repo_tags: vec![name.clone()],
            size: 1000,
            ..Default::default()
        };
        self.state.lock().images.insert(name, image);
    }

    /// Says what is in an image: a directory.
    pub fn set_contents(&self, name: &str, dir: &std::path::Path) {
        let id = archive::digest(archive::normalize(name).as_bytes());
        self.state.lock().contents.insert(id, dir.display().to_string());
    }

    /// Makes an image available for pulls.
    pub fn add_to_registry(&self, name: &str) {
        self.state.lock().registry.push(archive::normalize(name));
    }

    /// What commands in the container of this name answer from now on.
    pub fn answer_exec(&self, container: &str, exit_code: i32, output: &str) {
        let answer = v1::ExecSyncResponse { stdout: output.into(), stderr: Vec::new(), exit_code };
        self.state.lock().answers.insert(container.to_owned(), answer);
    }

    /// Has the next call of this operation fail.
    pub fn fail(&self, operation: &'static str, message: &str) {
        self.state.lock().failures.insert(operation, message.to_owned());
    }

    /// Lets calls of this operation (`StartContainer`) wait until [`release`](Self::release).
    pub fn hold(&self, operation: &'static str) {
        self.state.lock().held.insert(operation);
    }

    /// Lets all calls go on.
    pub fn release(&self) {
        self.state.lock().held.clear();
        self.released.notify_waiters();
    }

    /// All calls that changed something, as `Operation object`.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// Ends the running container of this name.
    pub fn exit(&self, name: &str, code: i32) {
        let id = {
            let mut state = self.state.lock();
            let running = state.containers.iter_mut().find(|(_, c)| {
                c.status.state() == v1::ContainerState::ContainerRunning
                    && c.config.metadata.as_ref().is_some_and(|m| m.name == name)
            });
            running.map(|(id, container)| {
                end(&mut container.status, code);
                id.clone()
            })
        };
        if let Some(id) = id {
            self.tell(&id, EventKind::Stopped);
        }
    }

    /// The configuration of the newest container of this name.
    pub fn container_config(&self, name: &str) -> Option<v1::ContainerConfig> {
        let state = self.state.lock();
        let newest = state
            .containers
            .values()
            .filter(|c| c.config.metadata.as_ref().is_some_and(|m| m.name == name))
            .max_by_key(|c| c.status.created_at);
        newest.map(|c| c.config.clone())
    }

    /// The configuration of the newest sandbox of this pod name.
    pub fn sandbox_config(&self, pod: &str) -> Option<v1::PodSandboxConfig> {
        let state = self.state.lock();
        let newest = state
            .sandboxes
            .values()
            .filter(|s| s.config.metadata.as_ref().is_some_and(|m| m.name == pod))
            .max_by_key(|s| s.status.created_at);
        newest.map(|s| s.config.clone())
    }
}

/// Writes down that a call was given up, unless it is told that it was not.
struct Watched<'a>(&'a Fake, &'static str);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.state.lock().calls.push(format!("given up: {}", self.1));
    }
}

impl Fake {
    /// Waits while the operation is held.
    pub(super) async fn held(&self, operation: &'static str) {
        let watched = Watched(self, operation);
        loop {
            let released = self.released.notified();
            if !self.state.lock().held.contains(operation) {
                break;
            }
            released.await;
        }
        std::mem::forget(watched);
    }
}
