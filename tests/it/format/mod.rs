//! The repository format as a whole: every byte counts, few requests suffice, a million rows fit,
//! and what was written once is read for ever.

mod chain;
mod damage;
mod golden;
mod reading;
mod records;
mod unpack;
