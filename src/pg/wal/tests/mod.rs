//! Tests of the WAL reader against samples of real servers (`tests/fixtures/WAL.md`).

mod damage;
mod forge;
mod header;
mod joined;
mod limits;
mod pieces;
mod records;
mod sample;
mod segments;
