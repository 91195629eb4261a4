//! `repository stats`: bytes by kind and storage class, versions told from objects, and what that costs a month.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::args::StatsArgs;
use crate::base::ByteSize;
use crate::cli::answers::Answers;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::{counted, print, print_json};
use crate::config::RepositorySettings;
use crate::repo::{self, Held, Holding, Usage};
use crate::storage::StorageClass;
use crate::tiering::{Price, PriceTable};
use crate::wiring::{self, Access};

/// Shows what each repository holds, or the one that is named.
pub fn stats(run: &Invocation, args: &StatsArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let named = run.global.repository.as_ref();
    let meant = |each: &&RepositorySettings| named.is_none_or(|named| *named == each.name);
    let mut answers = Answers::default();
    for settings in resolved.repositories.iter().filter(meant) {
        match usage(run, settings) {
            Ok(usage) if args.json => answers.told.push(as_json(settings, &usage)),
            Ok(usage) => print(&as_text(settings, &usage))?,
            Err(failure) => {
                let told = json!({ "repository": settings.name, "error": failure.json_error() });
                answers.fail(run, told, failure);
            }
        }
    }
    if args.json {
        print_json(&json!({ "format_version": 1, "repositories": answers.told }))?;
    }
    answers.end(Exit::Ok)
}

/// Names and sizes need no key.
fn usage(run: &Invocation, settings: &RepositorySettings) -> Result<Usage, Failure> {
    if !wiring::exists(&run.ctx, settings)? {
        let location = settings.url.to_string();
        let source = repo::Error::NoRepository { location };
        return Err(wiring::Error::of_repository(&settings.name, source).into());
    }
    let store = wiring::store(&run.ctx, settings, Access::ReadOnly)?;
    let failed = |source| Failure::from(wiring::Error::of_repository(&settings.name, source));
    Usage::of(&run.ctx, store.as_ref()).map_err(failed)
}

/// Objects and versions by class.
fn by_class(usage: &Usage) -> BTreeMap<&StorageClass, u64> {
    let mut bytes = BTreeMap::new();
    for (held, holding) in usage.objects.iter().chain(&usage.versions) {
        *bytes.entry(&held.class).or_default() += holding.bytes;
    }
    bytes
}

/// What is known of the cost, and the classes that have no price.
fn monthly<'a>(usage: &'a Usage, prices: &PriceTable) -> (Option<Price>, Vec<&'a StorageClass>) {
    let (mut sum, mut without) = (None::<Price>, Vec::new());
    for (class, bytes) in by_class(usage) {
        match prices.monthly(class, bytes) {
            Some(price) => sum = Some(Price(sum.unwrap_or_default().0 + price.0)),
            None => without.push(class),
        }
    }
    (sum, without)
}

fn as_text(settings: &RepositorySettings, usage: &Usage) -> String {
    let prices = &settings.prices;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let month = format!("{} a month", prices.currency);
    table.set_header(["cluster", "what", "class", "objects", "bytes", month.as_str()]);
    let sections = [(&usage.objects, ""), (&usage.versions, ", older versions")];
    for (held, holding, note) in
        sections.iter().flat_map(|(each, note)| each.iter().map(move |(held, of)| (held, of, note)))
    {
        let price = prices.monthly(&held.class, holding.bytes);
        table.add_row([
            held.cluster.clone().unwrap_or_default(),
            format!("{}{note}", held.family),
            held.class.to_string(),
            holding.objects.to_string(),
            ByteSize(holding.bytes).to_string(),
            price.map_or_else(String::new, |price| price.to_string()),
        ]);
    }
    let mut lines = vec![format!("{}: {}", settings.name, settings.url)];
    lines.extend(table.trim_fmt().lines().map(|line| format!("  {line}")));
    let all = |each: &BTreeMap<Held, Holding>| -> (u64, u64) {
        (each.values().map(|of| of.objects).sum(), each.values().map(|of| of.bytes).sum())
    };
    let count = |count: u64, noun| counted(usize::try_from(count).unwrap_or(usize::MAX), noun);
    let (objects, bytes) = all(&usage.objects);
    let mut total = format!("  {}, {}", count(objects, "object"), ByteSize(bytes));
    let (versions, bytes) = all(&usage.versions);
    if versions + usage.markers > 0 {
        total.push_str(&format!(
            "; {} ({}) and {} of removal, which the bucket keeps",
            count(versions, "older version"),
            ByteSize(bytes),
            count(usage.markers, "mark")
        ));
    }
    if !usage.are_versions_known {
        total
            .push_str("; older versions are not told to these credentials (s3:ListBucketVersions)");
    }
    if let Some(unfinished) = usage.unfinished.filter(|count| *count > 0) {
        total.push_str(&format!("; {} that did not end, or not yet", count(unfinished, "upload")));
    }
    lines.push(total);
    lines.push(match monthly(usage, prices) {
        (None, _) if prices.of_classes.is_empty() => {
            format!("  no prices are written: [repository.{}.prices]", settings.name)
        }
        (sum, without) => {
            let mut text =
                format!("  storage costs {} {} a month", sum.unwrap_or_default(), prices.currency);
            if !without.is_empty() {
                let names: Vec<_> = without.iter().map(|class| class.name()).collect();
                text.push_str(&format!(
                    ", without {}, for which no price is written",
                    names.join(", ")
                ));
            }
            text
        }
    });
    lines.join("\n")
}

fn as_json(settings: &RepositorySettings, usage: &Usage) -> Value {
    let prices = &settings.prices;
    let rows = |each: &BTreeMap<Held, Holding>| -> Vec<Value> {
        let rows = each.iter().map(|(held, holding)| {
            json!({
                "cluster": held.cluster,
                "what": held.family,
                "class": held.class,
                "objects": holding.objects,
                "bytes": holding.bytes,
                "monthly": prices.monthly(&held.class, holding.bytes).map(|price| price.to_string()),
            })
        });
        rows.collect()
    };
    let (sum, without) = monthly(usage, prices);
    json!({
        "repository": settings.name,
        "objects": rows(&usage.objects),
        "older_versions": usage.are_versions_known.then(|| rows(&usage.versions)),
        "marks_of_removal": usage.markers,
        "unfinished_uploads": usage.unfinished,
        "currency": prices.currency,
        "monthly": sum.map(|price| price.to_string()),
        "classes_without_price": without,
    })
}
