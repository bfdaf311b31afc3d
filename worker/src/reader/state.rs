//! State of the reading: the row under construction, and its defects.

use std::cell::RefCell;
use std::fmt::{self, Display};

use crds::timestamp::Timestamp;

use crate::decode::DecodeSettings;
use crate::plan::layout::{ArrayLayout, Layout, ValueLayout};
use crate::rejection::Rejection;
use crate::vault::{Elements, Row, Value};

/// Form of the timestamps in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampForm {
    /// Without UTC offset, in the time zone of the stage.
    Local,
    /// With or without UTC offset.
    AnyOffset,
}

/// Rank of a defect that does not prevent the reading: the rank of its value, the index of the element, and the slot. Of
/// several defects, the lowest is reported.
pub(super) type Rank = (usize, usize, usize);

/// Row under construction.
pub(super) struct State<'c> {
    pub(super) settings: &'c DecodeSettings,
    pub(super) form: TimestampForm,
    pub(super) row: Row<'static>,
    /// Defect with the lowest rank.
    pub(super) defect: Option<(Rank, Rejection)>,
    /// Defect that the scan of an unused value has found.
    pub(super) scanned: RefCell<Option<Rejection>>,
}

impl<'c> State<'c> {
    pub(super) fn new(layout: &Layout, settings: &'c DecodeSettings, form: TimestampForm) -> Self {
        let widths = layout.element_widths.iter();
        Self {
            settings,
            form,
            row: Row {
                record: vec![Value::Null; layout.record_width],
                arrays: widths
                    .map(|&width| Elements {
                        width,
                        values: Vec::new(),
                    })
                    .collect(),
                entry_times: vec![None; layout.lookup_count],
            },
            defect: None,
            scanned: RefCell::new(None),
        }
    }

    pub(super) fn add_defect(&mut self, rank: Rank, rejection: Rejection) {
        if self.defect.as_ref().is_none_or(|(lowest, _)| rank < *lowest) {
            self.defect = Some((rank, rejection));
        }
    }

    /// Parses a timestamp in the form of the message; `None` if that is a defect.
    pub(super) fn parse_time(&mut self, pointer: impl Display, text: &str, rank: Rank) -> Option<Timestamp> {
        let parsed = match self.form {
            TimestampForm::Local => self.settings.parse_source_timestamp(pointer, text),
            TimestampForm::AnyOffset => self.settings.parse_timestamp(pointer, text),
        };
        parsed.map_err(|rejection| self.add_defect(rank, rejection)).ok()
    }

    /// Fills a slot, unless another value of the message has filled it.
    pub(super) fn fill(&mut self, scope: RowScope<'_>, slot: usize, value: Value<'static>) {
        let slot = match scope {
            RowScope::Record => &mut self.row.record[slot],
            RowScope::Element { array, first, .. } => &mut self.row.arrays[array.array].values[first + slot],
        };
        if *slot == Value::Null {
            *slot = value;
        }
    }
}

/// Scope of the slots that an object fills.
#[derive(Clone, Copy)]
pub(super) enum RowScope<'s> {
    Record,
    Element {
        array: &'s ArrayLayout,
        index: usize,
        /// Index of the first slot of the element.
        first: usize,
    },
}

impl RowScope<'_> {
    /// JSON pointer of a value, formatted only for a defect.
    pub(super) fn pointer(self, within: &str) -> impl Display {
        fmt::from_fn(move |formatter| match self {
            Self::Record => formatter.write_str(within),
            Self::Element { array, index, .. } => write!(formatter, "{}/{index}{within}", array.pointer),
        })
    }

    pub(super) fn rank(self, value: &ValueLayout) -> Rank {
        match self {
            Self::Record => (value.rank, 0, value.slot),
            // The number of elements has the index 0.
            Self::Element { index, .. } => (value.rank, index + 1, value.slot),
        }
    }
}
