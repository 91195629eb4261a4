//! History files of real servers, ancestry, and what no server writes.

use super::*;
use crate::pg::{MajorVersion, fixture};
use proptest::prelude::*;

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

#[test]
fn f015_names_are_hexadecimal_and_the_rest_decimal() {
    for (number, hex) in
        [(1, "00000001"), (10, "0000000A"), (16, "00000010"), (u32::MAX, "FFFFFFFF")]
    {
        assert_eq!(tli(number).hex(), hex);
        assert_eq!(TimelineId::from_hex(hex), Ok(tli(number)));
        assert_eq!(TimelineId::from_decimal(&number.to_string()), Ok(tli(number)));
    }
    for wrong in ["", "0", "+1", "-1", "0A", "01", "4294967296", " 1"] {
        assert!(TimelineId::from_decimal(wrong).is_err(), "{wrong}");
    }
    for wrong in ["00000000", "1", "0000000a", "0000000G", "000000001"] {
        assert!(TimelineId::from_hex(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn history_of_real_servers() {
    for major in MajorVersion::ALL {
        let history = History::parse(tli(3), &fixture::bytes(major, "00000003.history")).unwrap();
        let timelines: Vec<_> = history.ancestors().iter().map(|a| a.timeline).collect();
        assert_eq!(timelines, [tli(1), tli(2)], "{major}");
        assert_eq!(history.ancestors()[0].reason, "no recovery target specified");
        assert_eq!(History::parse(tli(3), history.render().as_bytes()), Ok(history));
    }
}

#[test]
fn ancestry() {
    let content =
        b"# made by hand\n\n 1\t0/3000000\tbefore x\n\n2 0/5000000\n4\t0/5000000\tagain\r\n";
    let history = History::parse(tli(12), content).unwrap();
    assert!(history.is_ancestor(tli(4)) && !history.is_ancestor(tli(12)));
    assert!(history.includes(tli(12)) && !history.includes(tli(3)));
    assert_eq!(history.switch_point(tli(2)), Some(Lsn(0x500_0000)));
    assert_eq!(history.switch_point(tli(12)), None);
    assert_eq!(history.begin(tli(1)), Some(Lsn::INVALID));
    assert_eq!(history.begin(tli(12)), Some(Lsn(0x500_0000)));
    assert_eq!(history.begin(tli(3)), None);
    for (lsn, timeline) in
        [(0, 1), (0x2FF_FFFF, 1), (0x300_0000, 2), (0x4FF_FFFF, 2), (0x500_0000, 12)]
    {
        assert_eq!(history.timeline_of(Lsn(lsn)), tli(timeline), "{lsn:x}");
        assert!(history.contains(tli(timeline), Lsn(lsn)));
    }
    assert!(!history.contains(tli(1), Lsn(0x300_0000)));
    assert!(history.contains_until(tli(1), Lsn(0x300_0000)));
    assert!(!history.contains_until(tli(1), Lsn(0x300_0001)));
    assert!(!history.contains_until(tli(3), Lsn(0x300_0001)));
    assert!(!history.contains_until(tli(12), Lsn(0x400_0000)));
}

#[test]
fn a_history_may_end_before_its_parent_begins() {
    let content = b"1\t0/3008000\ta\n\n2\t0/2004000\tb\n\n3\t0/5000000\tc\n";
    let history = History::parse(tli(4), content).unwrap();
    let ends: Vec<u64> = history.ancestors().iter().map(|ancestor| ancestor.end.0).collect();
    assert_eq!(ends, [0x200_4000, 0x200_4000, 0x500_0000]);
    for (lsn, timeline) in [(0x200_3FFF, 1), (0x200_4000, 3), (0x300_7FFF, 3), (0x500_0000, 4)] {
        assert_eq!(history.timeline_of(Lsn(lsn)), tli(timeline), "{lsn:x}");
    }
    assert!(!history.contains_until(tli(2), Lsn(0x200_4001)));
}

#[test]
fn what_no_server_writes_is_refused() {
    for content in [
        "x\t0/1\n",
        "1\n",
        "1\t01\n",
        "0\t0/1\n",
        "1\t0/0\n",
        "2\t0/1\n1\t0/2\n",
        "1\t0/1\n1\t0/2\n",
        "3\t0/1\n",
        "10\t0/1\n",
    ] {
        assert!(History::parse(tli(3), content.as_bytes()).is_err(), "{content}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken(content: Vec<u8>) {
        History::parse(tli(7), &content).ok();
    }

    #[test]
    fn round_trip(steps in proptest::collection::vec((1u32..1000, 1u64..1 << 40, "[ -~]{0,20}"), 0..8)) {
        let (mut number, mut end) = (0, 0);
        let ancestors = steps.into_iter().map(|(timelines, bytes, reason)| {
            number += timelines;
            end += bytes;
            Ancestor { timeline: tli(number), end: Lsn(end), reason: reason.trim().to_owned() }
        });
        let ancestors: Vec<_> = ancestors.collect();
        let history = History::new(tli(number + 1), ancestors).unwrap();
        prop_assert_eq!(History::parse(history.timeline(), history.render().as_bytes()), Ok(history));
    }
}

#[test]
fn two_histories_part_at_the_first_position_that_is_not_in_both() {
    let history = |number, text: &str| {
        History::parse(TimelineId::new(number).unwrap(), text.as_bytes()).unwrap()
    };
    let first = History::without_ancestors(TimelineId::FIRST);
    let second = history(2, "1\t0/3000000\tx\n");
    let sibling = history(3, "1\t0/2000000\tx\n");
    let child = history(4, "1\t0/3000000\tx\n2\t0/5000000\tx\n");
    for (a, b, expected) in [
        (&first, &second, 0x300_0000),
        (&second, &sibling, 0x200_0000),
        (&second, &child, 0x500_0000),
        (&child, &sibling, 0x200_0000),
        (&first, &child, 0x300_0000),
    ] {
        assert_eq!(a.parts_from(b), Lsn(expected));
        assert_eq!(b.parts_from(a), Lsn(expected));
    }
    let stranger = History::without_ancestors(TimelineId::new(7).unwrap());
    assert_eq!(first.parts_from(&stranger), Lsn(0));
}
