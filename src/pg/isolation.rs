//! Settings that keep a copy from acting as its source: written into its `postgresql.auto.conf`, and found
//! there again.

use super::MajorVersion;
use super::config_file::{self, ConfigFile, Setting};

/// Settings with which a copy beside its source archives nothing, follows and waits for nobody, and
/// runs no background jobs.
///
/// Those of extensions have no effect where the extension is not loaded: a server takes any name with
/// a dot in it from a file. An extension that is loaded and does not know one of them drops it with a
/// warning. Logical replication workers are off because a copied subscription consumes the
/// publisher's slot, and production loses rows.
#[must_use]
pub fn settings(major: MajorVersion) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("archive_mode", "off"),
        // A leftover cleanup command deletes from the source's archive.
        ("archive_cleanup_command", ""),
        ("recovery_end_command", ""),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        // Otherwise the first commit waits for a standby that does not exist.
        ("synchronous_standby_names", ""),
        ("max_logical_replication_workers", "0"),
        ("timescaledb.max_background_workers", "0"),
        // Two for pg_cron: its older releases know the second only.
        ("cron.launch_active_jobs", "off"),
        ("cron.max_running_jobs", "0"),
    ];
    if major >= MajorVersion::V17 {
        settings.push(("sync_replication_slots", "off"));
    }
    // A file of the source's, outside its directory, that a server overwrites and removes at its end.
    settings.push(("external_pid_file", ""));
    if major <= MajorVersion::V14 {
        settings.push(("stats_temp_directory", "pg_stat_tmp"));
    }
    settings.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// So many of these settings in their order, one after another, are a restore's work: nobody sets as
/// many of them by hand to just these values.
const BLOCK_LINES_MIN: usize = 5;

/// A `postgresql.auto.conf` without the settings that restores of copies have written, and what was
/// taken out.
///
/// They are known by their order, not by a comment: `ALTER SYSTEM` writes the file anew without comments,
/// keeps the order of what it does not change, and keeps duplicates. A copy that was restored from a
/// copy's backup has several such blocks. What else sets one of these names was set by a person, and stays.
#[must_use]
pub fn without(content: &[u8], major: MajorVersion) -> (Vec<u8>, Vec<String>) {
    let parsed = ConfigFile::parse(content);
    let blocks = blocks(&parsed.settings, major);
    without_lines(content, &blocks)
}

/// As [`without`], of a file to which a restore of a copy has written last: there the last line of each
/// setting is a restore's too, where its value is, however many are left.
#[must_use]
pub fn without_of_copy(content: &[u8], major: MajorVersion) -> (Vec<u8>, Vec<String>) {
    let parsed = ConfigFile::parse(content);
    let mut lines = blocks(&parsed.settings, major);
    for (name, value) in settings(major) {
        let last = parsed.settings.iter().rfind(|set| set.name.eq_ignore_ascii_case(name));
        lines.extend(last.filter(|last| last.value == value));
    }
    without_lines(content, &lines)
}

/// The settings that belong to a block.
fn blocks(all: &[Setting], major: MajorVersion) -> Vec<&Setting> {
    let known = settings(major);
    let place = |set: &Setting| {
        known
            .iter()
            .position(|(name, value)| set.name.eq_ignore_ascii_case(name) && set.value == *value)
    };
    let (mut found, mut block) = (Vec::new(), Vec::new());
    let mut last = None;
    for set in all {
        let here = place(set);
        if here.is_none() || here <= last {
            close(&mut block, &mut found);
        }
        block.extend(here.map(|_| set));
        last = here;
    }
    close(&mut block, &mut found);
    found
}

/// Keeps a block that is long enough.
fn close<'a>(block: &mut Vec<&'a Setting>, found: &mut Vec<&'a Setting>) {
    if block.len() >= BLOCK_LINES_MIN {
        found.append(block);
    }
    block.clear();
}

fn without_lines(content: &[u8], settings: &[&Setting]) -> (Vec<u8>, Vec<String>) {
    let is_gone = |line: usize| settings.iter().any(|set| set.line == line);
    let lines = (1..).zip(content.split_inclusive(|byte| *byte == b'\n'));
    let kept = lines.filter(|(number, _)| !is_gone(*number));
    let mut removed: Vec<String> = Vec::new();
    for set in settings {
        let text = config_file::render(&set.name, &set.value).unwrap_or_else(|_| set.name.clone());
        if !removed.contains(&text) {
            removed.push(text);
        }
    }
    (kept.flat_map(|(_, line)| line.to_vec()).collect(), removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(major: MajorVersion) -> String {
        let each = settings(major).into_iter();
        each.map(|(name, value)| config_file::render(name, &value).unwrap()).collect()
    }

    #[test]
    fn f070_a_copy_does_not_act_as_its_source() {
        let everywhere = "archive_mode = 'off'\n\
            archive_cleanup_command = ''\n\
            recovery_end_command = ''\n\
            primary_conninfo = ''\n\
            primary_slot_name = ''\n\
            synchronous_standby_names = ''\n\
            max_logical_replication_workers = '0'\n\
            timescaledb.max_background_workers = '0'\n\
            cron.launch_active_jobs = 'off'\n\
            cron.max_running_jobs = '0'\n";
        let (slots, pid) = ("sync_replication_slots = 'off'\n", "external_pid_file = ''\n");
        for major in [MajorVersion::V15, MajorVersion::V16] {
            assert_eq!(block(major), format!("{everywhere}{pid}"), "{major}");
        }
        for major in [MajorVersion::V17, MajorVersion::V18] {
            assert_eq!(block(major), format!("{everywhere}{slots}{pid}"), "{major}");
        }
        let expected = format!("{everywhere}{pid}stats_temp_directory = 'pg_stat_tmp'\n");
        assert_eq!(block(MajorVersion::V14), expected);
    }

    /// Who reads a backup without pgkeep writes them by hand.
    #[test]
    fn d20261124_the_document_names_every_setting_of_a_copy() {
        let document = include_str!("../../docs/format.md");
        for major in [MajorVersion::V14, MajorVersion::V15, MajorVersion::V18] {
            for (name, value) in settings(major) {
                let line = config_file::render(name, &value).unwrap();
                assert!(document.contains(line.trim_end()), "{major}: {line}");
            }
        }
    }

    #[test]
    fn what_isolates_goes_and_the_rest_stays() {
        let major = MajorVersion::V15;
        let before = "# by hand\nprimary_conninfo = 'host=primary'\nwork_mem = '1MB'\n";
        let text = format!("{before}{}", block(major));
        let check = |text: &str, expected: &str| {
            for take in [without, without_of_copy] {
                let (after, removed) = take(text.as_bytes(), major);
                assert_eq!(String::from_utf8(after).unwrap(), expected);
                assert_eq!(removed.is_empty(), text == expected, "{removed:?}");
            }
        };
        check(&text, before);
        // Set by hand since: it was meant.
        let by_hand = "archive_mode = 'always'\n";
        check(&format!("{text}{by_hand}"), &format!("{before}{by_hand}"));
        check(before, before);
        check("", "");
    }

    /// A backup of a standby that a restore had made holds that restore's settings. Of a copy restored
    /// from it, `adopt` took out the last of each two, and a restore with archiving on none: archiving
    /// stayed off.
    #[test]
    fn d20261124_settings_of_several_restores_go() {
        let major = MajorVersion::V18;
        let between = "work_mem = '1MB'\nrestore_command = 'x'\n";
        let twice = format!("{}{between}# Written by pgkeep\n{}", block(major), block(major));
        // ALTER SYSTEM: no comments, and what it sets stands once, at the end.
        let altered = format!("{}{between}{}", block(major), block(major));
        let altered = altered.replace("primary_slot_name = ''\n", "") + "primary_slot_name = 's'\n";
        for take in [without, without_of_copy] {
            let after = |text: &str| String::from_utf8(take(text.as_bytes(), major).0).unwrap();
            assert_eq!(after(&twice), format!("{between}# Written by pgkeep\n"));
            assert_eq!(after(&altered), format!("{between}primary_slot_name = 's'\n"));
            // By those of an older version, which did not know all of them.
            let older = block(MajorVersion::V15);
            assert_eq!(after(&format!("{older}{between}")), between);
        }
    }

    #[test]
    fn d20261124_a_few_of_these_settings_are_a_person_s() {
        let major = MajorVersion::V15;
        let by_hand = "synchronous_standby_names = ''\nmax_logical_replication_workers = '0'\n";
        let (after, removed) = without(by_hand.as_bytes(), major);
        assert_eq!((after.as_slice(), removed.len()), (by_hand.as_bytes(), 0));
    }
}
