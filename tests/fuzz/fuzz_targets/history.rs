//! Timeline history files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep::pg::{History, Lsn, TimelineId};

fuzz_target!(|content: &[u8]| {
    let tip = TimelineId::new(u32::MAX).expect("not zero");
    if let Ok(history) = History::parse(tip, content) {
        for ancestor in history.ancestors() {
            assert!(history.contains_until(ancestor.timeline, ancestor.end));
            assert!(!history.contains(ancestor.timeline, ancestor.end));
        }
        assert_eq!(history.timeline_of(Lsn(u64::MAX)), tip);
        let again = History::parse(tip, history.render().as_bytes()).expect("what was rendered");
        assert_eq!(again.render(), history.render());
    }
});
