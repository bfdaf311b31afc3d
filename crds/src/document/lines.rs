//! Lines of the fields of a document.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::yaml::Document;

/// Fields of a document with their lines.
pub(super) struct Lines {
    lines_before: u64,
    /// `None` if the document cannot be parsed.
    root: Option<Spanned<Node>>,
}

/// Value in a document.
enum Node {
    Scalar,
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Lines {
    /// Reads the lines of a document.
    pub(super) fn read(document: &Document<'_>) -> Self {
        Self {
            lines_before: document.lines_before,
            root: serde_saphyr::from_str(document.text).ok(),
        }
    }

    /// Returns the line of a field in the whole text, from 1; of a field that is missing, the line of the object that lacks
    /// it. `path` is like `spec.vault.hubs[0].name`.
    pub(super) fn find(&self, path: &str) -> u64 {
        let mut line = 1;
        let mut node = self.root.as_ref();
        for step in path.split(['.', '[']).map(|step| step.trim_end_matches(']')) {
            let next = match node.map(|node| &node.value) {
                Some(Node::Map(fields)) => fields
                    .iter()
                    .find(|(key, _)| key.value == step)
                    .map(|(key, value)| (key.referenced.line(), value)),
                Some(Node::List(items)) => step
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get(index))
                    .map(|item| (item.referenced.line(), item)),
                Some(Node::Scalar) | None => None,
            };
            let Some((at, value)) = next else {
                break;
            };
            (line, node) = (at, Some(value));
        }
        self.lines_before + line
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Node::Map(map))
    }
}
