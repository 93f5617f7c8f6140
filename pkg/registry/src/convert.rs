//! Documents in the version of a request: by rules where they suffice, by the conversion webhook of a custom kind
//! where its definition names one. Caches hold what is stored; whatever leaves the registry has passed here.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_kinds::custom::conversion;
use knarr_kinds::{Conversion, Kind};
use knarr_machinery::ApiError;
use serde_json::Value;

use crate::cache::{CacheEvent, Entry};
use crate::registry::{Registry, is_stored_version, new_uid};
use crate::{codec, obj};

/// Documents sent to a webhook at once.
const BATCH: usize = 500;

/// Sends reviews to conversion webhooks.
#[async_trait]
pub trait ConversionCaller: Send + Sync + std::fmt::Debug {
    /// The answer to a ConversionReview.
    ///
    /// # Errors
    /// Why there is none.
    async fn call(&self, conversion: &Conversion, review: &Value) -> Result<Value, String>;
}

/// Converts documents of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Converter {
    kind: Kind,
    caller: Option<Arc<dyn ConversionCaller>>,
}

#[derive(serde::Deserialize)]
struct Head<'a> {
    #[serde(rename = "apiVersion", default)]
    api_version: std::borrow::Cow<'a, str>,
}

impl Converter {
    /// Documents in the kind's version, in their order; those that have it already are not sent.
    async fn documents(&self, documents: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        let Some(conversion) = self.kind.rules.conversion() else { return Ok(documents) };
        let wanted = self.kind.info.gvk.group_version().to_string();
        let foreign = |d: &Value| d.get("apiVersion").and_then(Value::as_str) != Some(wanted.as_str());
        let mut out = documents;
        let places: Vec<usize> = (0..out.len()).filter(|i| foreign(&out[*i])).collect();
        for places in places.chunks(BATCH) {
            let sent: Vec<Value> = places.iter().map(|i| std::mem::take(&mut out[*i])).collect();
            let converted = self.ask(conversion, &wanted, &sent).await?;
            for (place, document) in places.iter().zip(converted) {
                out[*place] = self.kind.rules.converted(document)?;
            }
        }
        Ok(out)
    }

    async fn ask(
        &self,
        conversion: &Conversion,
        wanted: &str,
        sent: &[Value],
    ) -> Result<Vec<Value>, ApiError> {
        let first = sent.first().map(crate::registry::type_text).unwrap_or_default();
        let failed =
            |e: String| ApiError::new(500, "", format!("conversion webhook for {first} failed: {e}"));
        let uid = new_uid();
        let review = conversion::request(conversion, wanted, sent, &uid).map_err(failed)?;
        let caller = self.caller.as_ref().ok_or_else(|| failed("this server calls no webhooks".into()))?;
        let answer = caller.call(conversion, &review).await.map_err(failed)?;
        conversion::accept(conversion, wanted, sent, &uid, &answer).map_err(failed)
    }

    /// Entries in the kind's version, in their order.
    pub async fn entries(&self, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, ApiError> {
        let wanted = self.kind.info.gvk.group_version().to_string();
        let mut out = entries;
        let foreign = |e: &Entry| {
            serde_json::from_slice::<Head<'_>>(&e.bytes).map_or(true, |head| head.api_version != wanted)
        };
        let places: Vec<usize> = (0..out.len()).filter(|i| foreign(&out[*i])).collect();
        let documents = places.iter().map(|i| out[*i].value()).collect::<Result<Vec<_>, _>>()?;
        for (place, document) in places.iter().zip(self.documents(documents).await?) {
            out[*place] = Arc::new(Entry::converted(&self.kind, &out[*place], &document)?);
        }
        // Selectable fields are those of the version that is asked for.
        if !self.kind.info.selectable_fields.is_empty() {
            for (i, entry) in out.iter_mut().enumerate() {
                if !places.contains(&i) {
                    *entry = Arc::new(Entry::converted(&self.kind, entry, &entry.value()?)?);
                }
            }
        }
        Ok(out)
    }

    /// Events with their objects in the kind's version.
    pub async fn events(&self, events: Vec<Arc<CacheEvent>>) -> Result<Vec<Arc<CacheEvent>>, ApiError> {
        let before = |e: &Arc<CacheEvent>| e.previous.clone();
        let mut all: Vec<Arc<Entry>> = events.iter().map(|e| e.entry.clone()).collect();
        all.extend(events.iter().filter_map(before));
        let mut converted = self.entries(all).await?;
        let mut previous = converted.split_off(events.len()).into_iter();
        let pair = |(event, entry): (Arc<CacheEvent>, Arc<Entry>)| {
            let previous = event.previous.as_ref().and_then(|_| previous.next());
            Arc::new(CacheEvent::new(event.revision, entry, event.deleted, previous))
        };
        Ok(events.into_iter().zip(converted).map(pair).collect())
    }
}

impl Registry {
    /// Sets who calls conversion webhooks; the first one stays.
    pub fn set_conversion_caller(&self, caller: Arc<dyn ConversionCaller>) {
        // A second one has nothing to add.
        let _ = self.conversion_caller().set(caller);
    }

    /// The converter of a kind that a webhook converts.
    pub(crate) fn converter(&self, kind: &Kind) -> Option<Converter> {
        kind.rules.conversion()?;
        Some(Converter { kind: kind.clone(), caller: self.conversion_caller().get().cloned() })
    }

    /// Entries as the kind's version tells them.
    pub(crate) async fn told(
        &self,
        kind: &Kind,
        entries: Vec<Arc<Entry>>,
    ) -> Result<Vec<Arc<Entry>>, ApiError> {
        match self.converter(kind) {
            Some(converter) => converter.entries(entries).await,
            None => Ok(entries),
        }
    }

    /// A document as the kind's version tells it, from the form that is stored.
    pub(crate) async fn to_version(&self, kind: &Kind, stored: Value) -> Result<Value, ApiError> {
        let document = kind.rules.from_storage(stored)?;
        match self.converter(kind) {
            Some(converter) => Ok(converter.documents(vec![document]).await?.remove(0)),
            None => Ok(document),
        }
    }

    /// A document as it is stored, from the kind's version.
    pub(crate) async fn to_stored(&self, kind: &Kind, document: &Value) -> Result<Value, ApiError> {
        if kind.rules.conversion().is_none() || is_stored_version(kind) {
            return kind.rules.to_storage(document.clone());
        }
        let stored = self.storage_kind(kind)?;
        self.to_version(&stored, document.clone()).await
    }

    /// A document of one kind in another version of it, or in another kind that is stored in the same place.
    ///
    /// # Errors
    /// A form that the other version cannot tell, a webhook that fails.
    pub async fn convert(&self, from: &Kind, to: &Kind, document: Value) -> Result<Value, ApiError> {
        if from.info.gvk == to.info.gvk {
            return Ok(document);
        }
        if let Some(converter) = self.converter(to) {
            return Ok(converter.documents(vec![document]).await?.remove(0));
        }
        if to.info.custom {
            let mut document = document;
            obj::set_gvk(&mut document, &to.info.gvk);
            return to.rules.converted(document);
        }
        let mut document = to.rules.from_storage(from.rules.to_storage(document)?)?;
        obj::set_gvk(&mut document, &to.info.gvk);
        Ok(document)
    }
}

impl Entry {
    /// An entry told in another version.
    fn converted(kind: &Kind, entry: &Self, document: &Value) -> Result<Self, ApiError> {
        Self::of(kind, &entry.key, document, entry.revision)
    }

    /// An entry of a document in its final form.
    pub(crate) fn of(kind: &Kind, key: &str, value: &Value, revision: i64) -> Result<Self, ApiError> {
        let fields =
            if kind.info.selectable_fields.is_empty() { Vec::new() } else { kind.rules.fields(value) };
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        let pair = |(k, v): (&String, &Value)| (k.clone().into_boxed_str(), v.as_str().unwrap_or("").into());
        Ok(Self {
            key: key.into(),
            revision,
            bytes: codec::to_sorted(value, revision)?,
            name: obj::name(value).into(),
            namespace: obj::namespace(value).into(),
            labels: labels.into_iter().flatten().map(pair).collect(),
            fields: fields.into_iter().map(|(n, v)| (n, v.into_boxed_str())).collect(),
        })
    }
}
