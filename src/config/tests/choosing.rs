//! Which file, which cluster and which repository is meant.

use super::*;

#[test]
fn the_only_one_the_named_one_or_the_marked_one_is_meant() {
    let repository = |name: &str, more: &str| {
        format!("[repository.{name}]\nurl = \"file:///{name}\"\n{CLEAR}{more}\n")
    };
    let chosen = |text: &str, cluster: Option<&str>, name: Option<&str>| {
        let resolved = parse(text).unwrap().resolve(cluster, name);
        resolved.and_then(|resolved| {
            let repository = resolved.repository()?;
            Ok(format!("{}/{}", resolved.cluster_name, repository.name))
        })
    };
    let one = format!("[cluster.main]\n{}", repository("z", ""));
    assert_eq!(chosen(&one, None, None).unwrap(), "main/z");
    let two = format!("{one}[cluster.test]\n{}", repository("a", ""));
    assert_eq!(chosen(&two, Some("test"), Some("a")).unwrap(), "test/a");
    let marked = format!("{one}{}", repository("a", "default = true"));
    assert_eq!(chosen(&marked, None, None).unwrap(), "main/a");
    assert_eq!(chosen(&marked, None, Some("z")).unwrap(), "main/z");

    let wrong = chosen(&two, None, None).unwrap_err().to_string();
    assert_eq!(
        wrong,
        format!("{FILE} has more than one cluster: name one with --cluster: main, test")
    );
    let wrong = chosen(&two, Some("main"), None).unwrap_err().to_string();
    assert!(
        wrong.ends_with("more than one repository: name one with --repository: z, a"),
        "{wrong}"
    );
    let all = parse(&two).unwrap().resolve(Some("main"), None).unwrap();
    assert_eq!(all.repositories.len(), 2, "what concerns all needs no choice");
    let wrong = chosen(&two, Some("mian"), None).unwrap_err().to_string();
    assert_eq!(wrong, format!("{FILE} has no cluster named \"mian\"; it has main, test"));
    let wrong = chosen(&two, Some("main"), Some("b")).unwrap_err();
    assert!(matches!(wrong, Error::UnknownName { kind: "repository", .. }), "{wrong}");
    let wrong = chosen("", None, None).unwrap_err().to_string();
    assert!(wrong.contains("cluster is missing; there is none yet; write a section"), "{wrong}");
    let twice = message(&format!("{marked}{}", repository("b", "default = true")));
    assert!(twice.contains("repository.a and repository.b are marked default"), "{twice}");
}

#[test]
fn one_repository_at_least_is_required() {
    let section = |name: &str, more: &str| {
        format!("[repository.{name}]\n{more}url = \"file:///{name}\"\n{}", CLEAR.replace('a', name))
    };
    let alone = format!("[cluster.main]\n{}", section("a", "required = false\n"));
    let refused = message(&alone);
    assert!(refused.contains("no repository is required"), "{refused}");
    assert!(refused.contains("line 3 has required = false"), "{refused}");
    let two = format!("{alone}{}", section("b", ""));
    let settings = parse(&two).unwrap();
    let all = settings.repositories().unwrap();
    assert_eq!(all.iter().map(|each| each.is_required).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn files_that_are_not_there_and_files_that_cannot_be_read_differ() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.toml");
    let load = |named: Option<PathBuf>, default: &Path, variables: &[(&str, &str)]| {
        let environment = variables.iter().copied().collect();
        let sources = Sources { config: None, environment: &environment, flags: &[] };
        Settings::load_from(named, default, &sources)
    };
    let variables = [("PGKEEP_CLUSTER__MAIN__RPO", "1m")];
    let wrong = load(None, &absent, &[]).unwrap_err();
    assert!(matches!(wrong, Error::MissingFile { .. }), "{wrong}");
    let wrong = load(Some(absent.clone()), &absent, &variables).unwrap_err();
    assert!(matches!(wrong, Error::MissingFile { .. }), "a named file must exist: {wrong}");
    let wrong = load(Some(folder.path().into()), &absent, &[]).unwrap_err();
    assert!(matches!(wrong, Error::UnreadableFile { .. }), "{wrong}");
    let by_variable = [("PGKEEP_CONFIG", absent.to_str().unwrap())];
    let environment = by_variable.into_iter().collect();
    let sources = Sources { config: None, environment: &environment, flags: &[] };
    let wrong = Settings::load(&sources).unwrap_err();
    assert!(wrong.to_string().contains("absent.toml"), "{wrong}");

    let settings = load(None, &absent, &variables).unwrap();
    assert_eq!(settings.cluster(None).unwrap().1.rpo, Duration::from_secs(60));
    let wrong = settings.resolve(None, None).unwrap_err().to_string();
    assert!(wrong.starts_with("the environment (there is no "), "{wrong}");

    let present = folder.path().join("present.toml");
    durable::write_new(&present, b"[cluster.file]\n", 0o600).unwrap();
    let settings = load(Some(present), &absent, &[]).unwrap();
    assert_eq!(settings.cluster(None).unwrap().0, "file");
}
