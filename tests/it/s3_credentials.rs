//! Who asks, by each link of the standard AWS chain, and which way requests go: as a process finds it in its
//! environment. The keys are signed with, and the server of the tests checks signatures.

use std::path::PathBuf;

use crate::support::bucket_site::BucketSite;
use crate::support::on_the_way::{Answering, Tunnels};
use crate::support::run::{Ran, run};
use crate::support::s3::TestS3;
use crate::support::{Cipher, Server, TestConfig};

/// A repository whose configuration names no keys (and `lines`).
fn without_keys(server: &Server, s3: TestS3, lines: &str) -> BucketSite {
    let site = BucketSite::new(server, s3, Cipher::None);
    let text = std::fs::read_to_string(site.config.path()).unwrap();
    let kept = text.lines().filter(|line| !line.contains("_key_file"));
    let text = kept.map(|line| match line.starts_with("path_style") {
        true => format!("{line}\n{lines}\n"),
        false => format!("{line}\n"),
    });
    let config = site.config.replaced(&text.collect::<String>());
    BucketSite { config, ..site }
}

/// Lists the backups, in an environment of these variables alone.
fn info(config: &TestConfig, environment: &[(&str, &str)]) -> Ran {
    let mut command = config.pgkeep(["info"]);
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    run(command.envs(environment.iter().copied()))
}

fn as_json(s3: &TestS3) -> String {
    let (access, secret) = (s3.access_key(), s3.secret_key());
    format!(
        "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"{access}\",\
         \"SecretAccessKey\":\"{secret}\",\"Token\":\"t\",\"AccountId\":\"1\",\
         \"LastUpdated\":\"2026-01-01T00:00:00Z\",\"Expiration\":\"2099-01-01T00:00:00Z\"}}"
    )
}

#[test]
fn environment_and_profile() {
    let Some(server) = Server::main() else { return };
    let site = without_keys(&server, TestS3::start(), "");
    let (access, secret) = (site.s3.access_key(), site.s3.secret_key());
    info(&site.config, &[]).assert_code(1).assert_says("credentials");
    let wrong = [("AWS_ACCESS_KEY_ID", access), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    info(&site.config, &wrong).assert_code(1).assert_says("SignatureDoesNotMatch");
    info(&site.config, &[("AWS_ACCESS_KEY_ID", access), ("AWS_SECRET_ACCESS_KEY", secret)])
        .assert_ok();
    let text = format!(
        "[default]\naws_access_key_id = {access}\naws_secret_access_key = wrong\n\
         [backup]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
    );
    let file = site.scratch.write("credentials", text);
    let file = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())];
    info(&site.config, &file).assert_code(1);
    info(&site.config, &[file[0], ("AWS_PROFILE", "backup")]).assert_ok();
    let named = without_keys(&server, TestS3::start(), "profile = \"backup\"");
    let (access, secret) = (named.s3.access_key(), named.s3.secret_key());
    let text = format!("[backup]\naws_access_key_id={access}\naws_secret_access_key={secret}\n");
    let file = named.scratch.write("credentials", text);
    info(&named.config, &[("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())]).assert_ok();
}

#[test]
fn web_identity_container_and_instance() {
    let Some(server) = Server::main() else { return };
    let site = without_keys(&server, TestS3::start(), "");
    let token = site.scratch.write("token", "who I am");
    let keys = as_json(&site.s3);
    let (access, secret) = (site.s3.access_key().to_owned(), site.s3.secret_key().to_owned());
    let services = Answering::start(move |request, body| match request {
        "POST /" if body.contains("who+I+am") || body.contains("who%20I%20am") => (
            200,
            format!(
                "<AssumeRoleWithWebIdentityResponse \
                 xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{access}</AccessKeyId>\
                 <SecretAccessKey>{secret}</SecretAccessKey><SessionToken>t</SessionToken>\
                 <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            ),
        ),
        "GET /container" => (200, keys.clone()),
        "PUT /latest/api/token" => (200, "token".into()),
        "GET /latest/meta-data/iam/security-credentials/" => (200, "role".into()),
        "GET /latest/meta-data/iam/security-credentials/role" => (200, keys.clone()),
        _ => (404, String::new()),
    });
    let url = services.url();
    let identity = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pgkeep"),
        ("AWS_ENDPOINT_URL_STS", &url),
        ("AWS_REGION", "us-east-1"),
    ];
    info(&site.config, &identity).assert_ok();
    assert_eq!(services.asked(), ["POST /"]);
    let container = format!("{url}/container");
    info(&site.config, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container)]).assert_ok();
    let instance =
        [("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str()), ("AWS_EC2_METADATA_DISABLED", "no")];
    info(&site.config, &instance).assert_ok();
    let asked = services.asked();
    assert!(asked.contains(&"GET /latest/meta-data/iam/security-credentials/role".to_owned()));
    assert!(asked.contains(&"GET /container".to_owned()), "{asked:?}");
}

/// One hiccup of the service that gives credentials ended a backup, or a recovery.
#[test]
fn d2026_11_28_a_service_of_credentials_that_fails_once_is_asked_again() {
    let Some(server) = Server::main() else { return };
    let site = without_keys(&server, TestS3::start(), "");
    let (keys, calls) = (as_json(&site.s3), std::sync::atomic::AtomicUsize::new(0));
    let services = Answering::start(move |_, _| {
        match calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => (500, String::new()),
            _ => (200, keys.clone()),
        }
    });
    let container = format!("{}/container", services.url());
    info(&site.config, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container)]).assert_ok();
    assert_eq!(services.asked().len(), 2);
}

#[test]
fn proxies_are_gone_through_where_the_environment_names_them() {
    let Some(server) = Server::main() else { return };
    // The name of the endpoint resolves nowhere: only the proxy knows where it is.
    let site = BucketSite::new(&server, TestS3::start(), Cipher::None);
    let endpoint = site.s3.endpoint();
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    let text = read(site.config.path()).replace(&endpoint, "http://s3.test");
    let config = TestConfig::new(&site.cluster).replaced(&text);
    info(&config, &[]).assert_code(1);
    site.s3.reset_counts();
    info(&config, &[("HTTP_PROXY", &endpoint)]).assert_ok();
    assert!(site.s3.requests("GetObject") > 0);
    info(&config, &[("HTTP_PROXY", &endpoint), ("NO_PROXY", "s3.test")]).assert_code(1);

    // With the bucket in the host's name.
    let config = config.replaced(&text.replace("path_style = true", "path_style = false"));
    info(&config, &[("HTTP_PROXY", &endpoint)]).assert_ok();
    let name = site.segment();
    let mut push = config.pgkeep(["archive-push", site.wal(&name).to_str().unwrap()]);
    run(push.env("HTTP_PROXY", &endpoint)).assert_ok();
    assert!(site.object(&name).is_some_and(|object| object.starts_with("pgkeep/c/")));

    let site = BucketSite::new(&server, TestS3::builder().tls().start(), Cipher::None);
    let tunnels = Tunnels::start();
    info(&site.config, &[("HTTPS_PROXY", &tunnels.url())]).assert_ok();
    assert!(tunnels.made() > 0);
}
