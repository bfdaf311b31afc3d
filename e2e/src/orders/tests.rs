//! What the generator promises.

use super::*;

mod promises;
