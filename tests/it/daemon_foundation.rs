//! The live tests of archiving and recovery once more, by way of a daemon and with nobody to fall back to:
//! what they show must not depend on who does the work. Left out are those that hold back segments by a
//! command that fails, which a daemon stores ahead, and those that spoil a key that it has in memory.

use crate::support::config::by_daemon;
use crate::{archive_forks, archive_live, archive_recovery, failover_live, standby_live};

macro_rules! by_daemon {
    ($($room:ident::$test:ident),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                by_daemon($room::$test);
            }
        )+
    };
}

by_daemon! {
    standby_live::a_standby_that_always_archives_repeats_its_primary_and_leaves_room_for_it,
    standby_live::f018_a_streaming_standby_outlives_its_archive_and_is_not_promoted_without_it,
    standby_live::f018_on_every_major_a_standby_is_not_promoted_without_its_archive,
    standby_live::f008_records_across_segments_survive_crashes_of_the_server,
    failover_live::f001_a_rolled_back_disk_gets_a_new_epoch,
    archive_live::f003_f006_what_is_no_segment_of_this_cluster_is_refused,
    archive_live::f010_f031_partial_segments_lie_beside_full_ones,
    archive_live::f016_every_segment_size_goes_there_and_back,
    archive_live::f018_f075_a_damaged_object_is_never_given_and_never_absent,
    archive_live::f024_no_segment_of_a_timeline_is_stored_before_its_history,
    archive_live::f005_the_first_file_under_a_name_stays,
    archive_live::f002_two_promotions_to_one_timeline_are_told_apart,
    archive_live::f016_a_changed_segment_size_needs_a_new_epoch,
    archive_live::d20261120_an_abandoned_end_of_a_timeline_is_not_given_to_its_descendant,
    archive_recovery::f024_a_lost_history_is_a_hole,
    archive_recovery::f018_an_archive_that_lost_its_tail_does_not_end_where_the_plan_saw_more,
    archive_forks::d20261120_a_segment_that_was_abandoned_as_a_whole_is_not_given_to_a_descendant,
    archive_forks::d20261124_a_segment_from_before_the_switch_is_not_stored_under_the_child_s_name,
    archive_forks::d20261120_partial_segments_that_differ_in_old_bytes_only_are_the_same,
}
