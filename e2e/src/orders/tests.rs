//! Tests of the generator.

use jiff::civil::DateTime;

use super::generator::{FIRST_BAD_ORDER_ID, FIRST_ORDER_ID};
use super::*;

mod promises;
