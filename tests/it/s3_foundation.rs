//! The live tests of the foundation once more, with their repositories in buckets: what they show must not
//! depend on where the objects lie. Those that look into a repository's folder stay with folders.

use crate::support::config::in_buckets;
use crate::{
    archive_live, backup_live, chain_live, cli_live, majors, pitr, plan_live, restore_live,
};

macro_rules! in_buckets {
    ($($room:ident::$test:ident),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                in_buckets($room::$test);
            }
        )+
    };
}

in_buckets! {
    pitr::every_kind_of_target_is_met_exactly,
    cli_live::a_dropped_table_comes_back_in_a_copy,
    archive_live::f002_two_promotions_to_one_timeline_are_told_apart,
    archive_live::f005_the_first_file_under_a_name_stays,
    archive_live::f016_every_segment_size_goes_there_and_back,
    archive_live::f017_a_fetch_killed_at_any_moment_leaves_the_whole_file_or_none,
    backup_live::f060_no_backup_without_its_wal,
    backup_live::f062_a_backup_ends_with_its_server_or_session,
    chain_live::f047_each_backup_of_a_chain_restores_to_what_was_there,
    majors::a_chain_is_taken_and_restored_on_every_major,
    majors::every_major_is_backed_up_under_load_and_idle_and_restored_to_any_time,
    plan_live::what_is_lost_is_counted_exactly_for_every_kind_of_target,
    restore_live::a_standby_follows_the_archive_until_it_is_promoted,
    restore_live::f024_f026_each_timeline_can_be_restored,
    restore_live::f067_an_interrupted_restore_leaves_nothing_that_starts,
    restore_live::f068_f069_f071_targets_that_cannot_be_reached_are_told_with_those_that_can,
}
