//! The rules by examples, and what holds for all plans.

mod properties;
mod rules;
mod thaws;
mod told;
