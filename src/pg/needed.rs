//! Which WAL a backup needs: for each segment from start to stop, the names that it may have.

use super::{History, Lsn, Result, SegmentName, SegmentNo, SegmentSize, TimelineId};

/// The names of the segments from `start` to `stop`, for each those under which the repository may
/// have what is needed of it, newest timeline first. Nothing when `stop` is no end of anything.
///
/// Of the segment of a timeline switch, the file of the new timeline begins with what the old one
/// wrote; the old one's file, if it was ever completed, goes on with what this history does not hold,
/// or with nothing. So a younger timeline's file always serves, an older one's never does.
///
/// # Errors
/// For a position behind the last segment that there can be.
pub fn needed_segments(
    history: &History,
    start: Lsn,
    stop: Lsn,
    size: SegmentSize,
) -> Result<Vec<Vec<String>>> {
    let Some(last) = SegmentNo::of_end(stop, size) else { return Ok(Vec::new()) };
    let mut needed = Vec::new();
    for number in SegmentNo::of(start, size).0..=last.0 {
        let number = SegmentNo(number);
        let end = number.end(size).unwrap_or(Lsn(u64::MAX));
        let last_byte = Lsn(end.min(stop).0.saturating_sub(1));
        let names = timelines(history, last_byte, Lsn(end.0.saturating_sub(1)))
            .map(|timeline| SegmentName::new(timeline, number, size).map(|name| name.to_string()));
        needed.push(names.collect::<Result<Vec<String>>>()?);
    }
    Ok(needed)
}

/// The timelines of a history that wrote bytes from `first` to `last`, or ended between the two
/// without having written any; youngest first.
fn timelines(history: &History, first: Lsn, last: Lsn) -> impl Iterator<Item = TimelineId> {
    let (oldest, youngest) = (history.timeline_of(first), history.timeline_of(last));
    let ancestors = history.ancestors().iter().map(|ancestor| ancestor.timeline);
    let all: Vec<TimelineId> = ancestors.chain([history.timeline()]).collect();
    all.into_iter().rev().filter(move |one| (oldest..=youngest).contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(history: &str, start: u64, stop: u64) -> Vec<String> {
        let size = SegmentSize::new(1 << 20).unwrap();
        let history = match history {
            "" => History::without_ancestors(TimelineId::FIRST),
            text => {
                let tip = u32::try_from(text.lines().count()).unwrap() + 1;
                History::parse(TimelineId::new(tip).unwrap(), text.as_bytes()).unwrap()
            }
        };
        let short = |name: String| format!("{}-{}", &name[7..8], &name[19..]);
        needed_segments(&history, Lsn(start), Lsn(stop), size)
            .unwrap()
            .into_iter()
            .map(|names| names.into_iter().map(short).collect::<Vec<_>>().join(" or "))
            .collect()
    }

    #[test]
    fn f027_f030_a_stop_on_a_boundary_needs_the_segment_that_it_ends() {
        assert_eq!(needed("", 0x30_0028, 0x30_0100), ["1-00003"]);
        assert_eq!(needed("", 0x30_0028, 0x40_0000), ["1-00003"]);
        assert_eq!(needed("", 0x30_0028, 0x40_0001), ["1-00003", "1-00004"]);
        assert_eq!(needed("", 0x30_0028, 0x60_0000), ["1-00003", "1-00004", "1-00005"]);
        assert_eq!(needed("", 0x40_0000, 0x40_0000), Vec::<String>::new());
        assert_eq!(needed("", 0x40_0000, 0), Vec::<String>::new());
    }

    #[test]
    fn d20261120_the_old_timeline_s_file_does_not_stand_for_the_switch_segment() {
        let history = "1\t0/400100\tno recovery target specified\n";
        // The stop lies behind the switch: what the old primary archived under the old name, up to
        // the switch or beyond, does not hold it.
        assert_eq!(needed(history, 0x30_0028, 0x40_0200), ["1-00003", "2-00004"]);
        assert_eq!(needed(history, 0x30_0028, 0x50_0200), ["1-00003", "2-00004", "2-00005"]);
        // The stop lies before it: either file holds it, and the old one may never be completed.
        assert_eq!(needed(history, 0x30_0028, 0x40_0100), ["1-00003", "2-00004 or 1-00004"]);
        assert_eq!(needed(history, 0x30_0028, 0x40_0000), ["1-00003"]);
        // The switch lies on a boundary.
        let history = "1\t0/400000\tno recovery target specified\n";
        assert_eq!(needed(history, 0x30_0028, 0x40_0200), ["1-00003", "2-00004"]);
        // Two switches in one segment, the second without a record of its own in between.
        let history = "1\t0/400100\tx\n2\t0/400100\tx\n";
        assert_eq!(needed(history, 0x40_0028, 0x40_0100), ["3-00004 or 2-00004 or 1-00004"]);
        assert_eq!(needed(history, 0x40_0028, 0x40_0101), ["3-00004"]);
    }
}
