//! Lists: filtered, sorted, cut into pages.
//!
//! A marker is the place of a page's first or last row in the list's order, not a count of rows: it stays right while
//! rows come and go.

use super::error::ApiError;
use super::filter::{Condition, Order, Place, conditions};
use super::ordered::{Cut, From};
use super::request::Request;
use super::view::{Frame, Shown};
use crate::environment::Timestamp;
use crate::resource::declaration::Type;
use crate::resource::validation::InvalidCode;
use crate::resource::{Resource, types};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::sync::Arc;

const LIMIT: usize = 100;
const LARGEST_LIMIT: usize = 1000;
/// Removed rows stay in lists as long as this, in milliseconds.
const REMOVED_SHOWN: i64 = 300_000;

/// What a list's parameters ask for.
#[derive(Debug)]
pub struct Query {
    conditions: Vec<Condition>,
    order: Order,
    limit: usize,
    marker: Option<Marker>,
    /// Rows removed before it are not listed, unless a filter asks after `removed` itself.
    removed_after: Option<Timestamp>,
}

/// Where a page begins or ends.
#[derive(Clone, Debug, PartialEq)]
enum Marker {
    /// The rows behind it.
    After(Place),
    /// The rows before it.
    Before(Place),
}

impl Marker {
    fn text(&self) -> String {
        let (direction, place) = match self {
            Self::After(place) => ("a", place),
            Self::Before(place) => ("b", place),
        };
        format!("m{}", URL_SAFE_NO_PAD.encode(json!([direction, place.key, place.id]).to_string()))
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix('m')?).ok()?;
        let (direction, key, id): (String, Value, u64) = serde_json::from_slice(&bytes).ok()?;
        let place = Place { key, id };
        match direction.as_str() {
            "a" => Some(Self::After(place)),
            "b" => Some(Self::Before(place)),
            _ => None,
        }
    }
}

/// The rows of one page.
#[derive(Debug)]
pub struct Page {
    pub rows: Vec<Arc<Resource>>,
    previous: Option<String>,
    next: Option<String>,
}

impl Query {
    pub fn read(declared: &Type, request: &Request, now: Timestamp) -> Result<Self, ApiError> {
        let conditions = conditions(declared, &request.query);
        let asks_removed = conditions.iter().any(|condition| condition.field.name == "removed");
        let marker = match request.parameter("marker").filter(|marker| !marker.is_empty()) {
            None => None,
            Some(text) => Some(Marker::parse(text).ok_or_else(|| ApiError {
                field: Some("marker".into()),
                ..ApiError::invalid(InvalidCode::InvalidFormat, "this is no marker of ours; begin again without one")
            })?),
        };
        Ok(Self {
            conditions,
            order: Order::read(declared, request.parameter("sort"), request.parameter("order")),
            limit: match request.parameter("limit").and_then(|limit| limit.trim().parse::<usize>().ok()) {
                Some(limit) if limit > 0 => limit.min(LARGEST_LIMIT),
                _ => LIMIT,
            },
            marker,
            removed_after: (!asks_removed).then(|| Timestamp(now.0 - REMOVED_SHOWN)),
        })
    }

    /// Whether a row is in the list.
    pub fn holds(&self, row: &Resource) -> bool {
        let gone = self.removed_after.is_some_and(|after| row.removed.is_some_and(|removed| removed < after));
        !gone && self.conditions.iter().all(|condition| condition.holds(row))
    }

    /// Which part of the list the page is of, where that is told by numbers alone.
    pub fn cut(&self) -> Option<Cut> {
        let from = match &self.marker {
            None => From::Start,
            Some(Marker::After(place)) => From::After(place.id),
            Some(Marker::Before(place)) => From::Before(place.id),
        };
        let Order { field, descending } = self.order;
        field.is_none().then_some(Cut { from, descending, limit: self.limit })
    }

    /// One page of the rows that are in the list, or in that part of it.
    pub fn page(&self, rows: Vec<Arc<Resource>>) -> Page {
        let mut rows: Vec<(Place, Arc<Resource>)> = rows.into_iter().map(|row| (self.order.place(&row), row)).collect();
        rows.sort_by(|(left, _), (right, _)| self.order.compare(left, right));
        let (from, to) = match &self.marker {
            None => (0, self.limit.min(rows.len())),
            Some(Marker::After(place)) => {
                let from = rows.partition_point(|(row, _)| self.order.compare(row, place).is_le());
                (from, rows.len().min(from + self.limit))
            }
            Some(Marker::Before(place)) => {
                let to = rows.partition_point(|(row, _)| self.order.compare(row, place).is_lt());
                (to.saturating_sub(self.limit), to)
            }
        };
        let place = |at: usize| rows.get(at).map(|(place, _)| place.clone());
        let previous = (from > 0).then(|| place(from)).flatten();
        let next = (to < rows.len()).then(|| place(to.checked_sub(1)?)).flatten();
        Page {
            previous: previous.map(|place| Marker::Before(place).text()),
            next: next.map(|place| Marker::After(place).text()),
            rows: rows.drain(from..to).map(|(_, row)| row).collect(),
        }
    }

    /// All of a list but its rows.
    pub fn envelope(
        &self,
        declared: &'static Type,
        request: &Request,
        page: &Page,
        defaults: Map<String, Value>,
    ) -> Map<String, Value> {
        let mut create_types = Map::new();
        if !declared.is_subtype() {
            for subtype in types::subtypes(declared.name).filter(|subtype| subtype.collection_methods.contains(&"POST"))
            {
                let address = format!("{}/{}", request.base, subtype.plural.to_ascii_lowercase());
                create_types.insert(subtype.name.into(), Value::from(address));
            }
        }
        let mut sort_links = Map::new();
        let mut filters = Map::new();
        for field in declared.fields().filter(|field| !field.modifiers().is_empty()) {
            if field.admin_only && !request.principal.sees_all() {
                continue;
            }
            let address = request.address_with(&[("sort", Some(field.name)), ("order", None), ("marker", None)]);
            sort_links.insert(field.name.into(), Value::from(address));
            let given: Vec<Value> = self
                .conditions
                .iter()
                .filter(|condition| condition.field.name == field.name)
                .map(|condition| json!({ "modifier": condition.modifier, "value": condition.given }))
                .collect();
            filters.insert(field.name.into(), if given.is_empty() { Value::Null } else { Value::Array(given) });
        }
        let order = |descending| if descending { "desc" } else { "asc" };
        let sort = self.order.field.map(|field| {
            let reverse = request.address_with(&[("order", Some(order(!self.order.descending))), ("marker", None)]);
            json!({ "name": field.name, "order": order(self.order.descending), "reverse": reverse })
        });
        let limit = self.limit.to_string();
        let at = |marker: &str| request.address_with(&[("limit", Some(&limit)), ("marker", Some(marker))]);
        let pagination = json!({
            "first": page.previous.as_ref().map(|_| request.address_with(&[("limit", Some(&limit)), ("marker", None)])),
            "previous": page.previous.as_deref().map(at),
            "next": page.next.as_deref().map(at),
            "limit": self.limit,
            "total": null,
            "partial": page.previous.is_some() || page.next.is_some(),
        });
        let mut envelope = envelope(declared.name, &request.address());
        envelope.insert("createTypes".into(), Value::Object(create_types));
        envelope.insert("sortLinks".into(), Value::Object(sort_links));
        envelope.insert("sort".into(), sort.unwrap_or_default());
        envelope.insert("filters".into(), Value::Object(filters));
        envelope.insert("pagination".into(), pagination);
        envelope.insert("createDefaults".into(), Value::Object(defaults));
        envelope
    }
}

/// What every list has, whatever is in it.
pub fn envelope(resource_type: &str, address: &str) -> Map<String, Value> {
    let mut envelope = Map::new();
    envelope.insert("type".into(), "collection".into());
    envelope.insert("resourceType".into(), resource_type.into());
    envelope.insert("links".into(), json!({ "self": address }));
    for name in ["createTypes", "actions", "sortLinks", "filters", "createDefaults"] {
        envelope.insert(name.into(), json!({}));
    }
    envelope.insert("sort".into(), Value::Null);
    envelope.insert("pagination".into(), Value::Null);
    envelope
}

/// A list and its rows, as they are written.
#[derive(Debug, serde::Serialize)]
pub struct Body<'a> {
    #[serde(flatten)]
    pub envelope: &'a Map<String, Value>,
    pub data: Vec<Shown<'a>>,
}

impl<'a> Body<'a> {
    pub fn new(
        envelope: &'a Map<String, Value>,
        frame: &'a Frame<'a>,
        declared: &'static Type,
        rows: &'a [Arc<Resource>],
    ) -> Self {
        Self { envelope, data: rows.iter().map(|row| frame.show(declared, row)).collect() }
    }
}
