//! Checksums: those that a client declared are held against the bytes before anything is stored.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::{Checksum, ChecksumType};
use s3s::{S3Result, TrailingHeaders, s3_error};

pub const ALGORITHMS: [&str; 5] = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"];

/// The five checksum fields that most inputs of the crate have, as one value.
macro_rules! sums_of {
    ($input:expr) => {
        s3s::dto::Checksum {
            checksum_crc32: $input.checksum_crc32.clone(),
            checksum_crc32c: $input.checksum_crc32c.clone(),
            checksum_crc64nvme: $input.checksum_crc64nvme.clone(),
            checksum_sha1: $input.checksum_sha1.clone(),
            checksum_sha256: $input.checksum_sha256.clone(),
            checksum_type: None,
        }
    };
}

/// And the way back, into an output.
macro_rules! set_sums {
    ($output:expr, $sums:expr) => {{
        let sums: &s3s::dto::Checksum = $sums;
        $output.checksum_crc32 = sums.checksum_crc32.clone();
        $output.checksum_crc32c = sums.checksum_crc32c.clone();
        $output.checksum_crc64nvme = sums.checksum_crc64nvme.clone();
        $output.checksum_sha1 = sums.checksum_sha1.clone();
        $output.checksum_sha256 = sums.checksum_sha256.clone();
    }};
}

pub(super) use {set_sums, sums_of};

pub fn get<'a>(sums: &'a Checksum, algorithm: &str) -> Option<&'a String> {
    match algorithm {
        "CRC32" => sums.checksum_crc32.as_ref(),
        "CRC32C" => sums.checksum_crc32c.as_ref(),
        "CRC64NVME" => sums.checksum_crc64nvme.as_ref(),
        "SHA1" => sums.checksum_sha1.as_ref(),
        _ => sums.checksum_sha256.as_ref(),
    }
}

fn set(sums: &mut Checksum, algorithm: &str, value: String) {
    let field = match algorithm {
        "CRC32" => &mut sums.checksum_crc32,
        "CRC32C" => &mut sums.checksum_crc32c,
        "CRC64NVME" => &mut sums.checksum_crc64nvme,
        "SHA1" => &mut sums.checksum_sha1,
        _ => &mut sums.checksum_sha256,
    };
    *field = Some(value);
}

pub fn declared(sums: &Checksum) -> Vec<&'static str> {
    ALGORITHMS.into_iter().filter(|algorithm| get(sums, algorithm).is_some()).collect()
}

/// Adds the checksums that came after the body; call it when the body was read to its end.
pub fn add_trailers(sums: &mut Checksum, trailers: Option<&TrailingHeaders>) {
    let Some(trailers) = trailers else { return };
    trailers.read(|headers| {
        for algorithm in ALGORITHMS {
            let name = format!("x-amz-checksum-{}", algorithm.to_ascii_lowercase());
            if let Some(Ok(value)) = headers.get(name).map(|value| value.to_str()) {
                set(sums, algorithm, value.to_owned());
            }
        }
    });
}

pub fn computed(algorithms: &[&str], bodies: &[&[u8]]) -> Checksum {
    let has = |algorithm: &str| algorithms.contains(&algorithm);
    let mut hasher = ChecksumHasher {
        crc32: has("CRC32").then(Crc32::new),
        crc32c: has("CRC32C").then(Crc32c::new),
        crc64nvme: has("CRC64NVME").then(Crc64Nvme::new),
        sha1: has("SHA1").then(Sha1::new),
        sha256: has("SHA256").then(Sha256::new),
    };
    for body in bodies {
        hasher.update(body);
    }
    hasher.finalize()
}

/// Refuses a body that does not fit what was declared for it; what is returned is what to store.
pub fn verified(body: &[u8], sums: Checksum, md5: Option<&str>) -> S3Result<Checksum> {
    if md5.is_some_and(|md5| md5 != BASE64.encode(Md5::checksum(body))) {
        return Err(s3_error!(BadDigest, "the Content-MD5 does not fit the body"));
    }
    let algorithms = declared(&sums);
    let mut actual = computed(&algorithms, &[body]);
    if let Some(wrong) = algorithms.iter().find(|name| get(&actual, name) != get(&sums, name)) {
        return Err(s3_error!(BadDigest, "the {wrong} does not fit the body"));
    }
    if !algorithms.is_empty() {
        actual.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    Ok(actual)
}

/// The checksum of the checksums of the parts, with the number of parts behind it.
pub fn composite(algorithm: &str, parts: &[&Checksum]) -> S3Result<Checksum> {
    let decoded: Option<Vec<Vec<u8>>> =
        parts.iter().map(|sums| BASE64.decode(get(sums, algorithm)?).ok()).collect();
    let Some(decoded) = decoded else {
        return Err(s3_error!(InvalidRequest, "a part has no {algorithm}"));
    };
    let bodies: Vec<&[u8]> = decoded.iter().map(Vec::as_slice).collect();
    let mut sums = computed(&[algorithm], &bodies);
    let text = get(&sums, algorithm).map(|sum| format!("{sum}-{}", parts.len()));
    set(&mut sums, algorithm, text.unwrap_or_default());
    sums.checksum_type = Some(ChecksumType::from_static(ChecksumType::COMPOSITE));
    Ok(sums)
}
