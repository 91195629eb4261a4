//! Golden settings for every target on every major.

use super::*;
use crate::pg::config_file;

fn settings(target: RecoveryTarget) -> RecoverySettings {
    RecoverySettings {
        target,
        inclusive: false,
        action: TargetAction::Promote,
        timeline: TargetTimeline::Number(TimelineId::new(26).unwrap()),
        restore_command: "pgkeep archive-get %f \"%p\"".to_owned(),
    }
}

fn golden(target: RecoveryTarget, major: MajorVersion) -> String {
    let settings = settings(target).render(major).unwrap();
    settings.iter().map(|(name, value)| config_file::render(name, value).unwrap()).collect()
}

fn expected(major: MajorVersion, targets: &str) -> String {
    let trigger = match major {
        MajorVersion::V14 | MajorVersion::V15 => "promote_trigger_file = ''\n",
        _ => "",
    };
    format!(
        "restore_command = 'pgkeep archive-get %f \"%p\"'\n\
         recovery_min_apply_delay = '0'\n\
         {trigger}{targets}\
         recovery_target_inclusive = 'off'\n\
         recovery_target_timeline = '26'\n\
         recovery_target_action = 'promote'\n"
    )
}

#[test]
fn f026_every_target_on_every_major() {
    let time = Timestamp::from_timestamp(1_795_183_200, 120_003_999).unwrap();
    let [target, name, at, xid, lsn] = TARGETS.map(|name| format!("{name} = ''\n"));
    for (wanted, targets) in [
        (RecoveryTarget::Latest, format!("{target}{name}{at}{xid}{lsn}")),
        (RecoveryTarget::Immediate, format!("{name}{at}{xid}{lsn}recovery_target = 'immediate'\n")),
        (
            RecoveryTarget::Time(time),
            format!(
                "{target}{name}{xid}{lsn}recovery_target_time = '2026-11-20 14:00:00.120003+00:00'\n"
            ),
        ),
        (
            RecoveryTarget::Lsn(Lsn(0x16_B374_D848)),
            format!("{target}{name}{at}{xid}recovery_target_lsn = '16/B374D848'\n"),
        ),
        (
            RecoveryTarget::Xid(0x1_0000_0003),
            format!("{target}{name}{at}{lsn}recovery_target_xid = '4294967299'\n"),
        ),
        (
            RecoveryTarget::Name("it's".to_owned()),
            format!("{target}{at}{xid}{lsn}recovery_target_name = 'it''s'\n"),
        ),
    ] {
        for major in MajorVersion::ALL {
            assert_eq!(
                golden(wanted.clone(), major),
                expected(major, &targets),
                "{major} {wanted:?}"
            );
        }
    }
}

#[test]
fn impossible_targets_are_refused() {
    for target in [
        RecoveryTarget::Lsn(Lsn::INVALID),
        RecoveryTarget::Xid(2),
        RecoveryTarget::Xid(0x1_0000_0000),
        RecoveryTarget::Name(String::new()),
        RecoveryTarget::Name("x".repeat(64)),
    ] {
        assert!(settings(target.clone()).render(MajorVersion::V18).is_err(), "{target:?}");
    }
    let mut without_command = settings(RecoveryTarget::Latest);
    without_command.restore_command = " ".to_owned();
    assert!(without_command.render(MajorVersion::V18).is_err());
}
