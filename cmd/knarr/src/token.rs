//! `knarr token`: bootstrap tokens (secrets in `kube-system`) and the cluster's own join token.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine as _;
use clap::{Arg, ArgAction, ArgMatches, Command};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use knarr_auth::join::{DEFAULT_GROUP, SECRET_TYPE, is_extra_group};
use knarr_pki::token::{self, PREFIX};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "bootstrap-token-";
const USAGE: &str = "usage-bootstrap-";
/// What a token can be used for.
const USAGES: &[&str] = &["authentication", "signing"];
const DEFAULT_TTL: &str = "24h";

/// The command line.
pub fn command(kubeconfig: Arg) -> Command {
    let one = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let many = |name: &'static str, value: &'static str, help: &'static str| {
        one(name, value, help).action(ArgAction::Append).value_delimiter(',')
    };
    Command::new("token")
        .about("Tokens that machines join with")
        .subcommand_required(true)
        .subcommand(
            Command::new("create")
                .about("Create a bootstrap token and print it in secure form")
                .arg(kubeconfig.clone())
                .arg(Arg::new("TOKEN").help("<id>.<secret> [default: random]"))
                .arg(one("description", "TEXT", "what it is for"))
                .arg(many("groups", "GROUP", "groups of those who join with it").default_value(DEFAULT_GROUP))
                .arg(one("ttl", "DURATION", "how long it is valid, 0 for ever").default_value(DEFAULT_TTL))
                .arg(
                    many("usages", "USAGE", "authentication, signing")
                        .default_value("signing,authentication"),
                ),
        )
        .subcommand(
            Command::new("list")
                .about("List bootstrap tokens, without their secrets")
                .arg(kubeconfig.clone())
                .arg(
                    one("output", "FORMAT", "text or json")
                        .short('o')
                        .value_parser(["text", "json"])
                        .default_value("text"),
                ),
        )
        .subcommand(
            Command::new("delete")
                .about("Delete bootstrap tokens")
                .arg(kubeconfig.clone())
                .arg(Arg::new("ID").help("<id> or <id>.<secret>").required(true).action(ArgAction::Append)),
        )
        .subcommand(Command::new("generate").about("Print a random bootstrap token without creating it"))
        .subcommand(
            Command::new("rotate")
                .about("Exchange the cluster's join token; nodes that have joined stay")
                .arg(kubeconfig)
                .arg(one("new-token", "PASSWORD", "the new password [default: random]")),
        )
}

/// Runs a sub-command.
///
/// # Errors
/// What cannot be done, by name.
pub async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match matches.subcommand() {
        Some(("create", m)) => create(m).await?,
        Some(("list", m)) => list(m).await?,
        Some(("delete", m)) => delete(m).await?,
        Some(("generate", _)) => println!("{}", token::generate()),
        Some(("rotate", m)) => rotate(m).await?,
        _ => anyhow::bail!("token: no such command"),
    }
    Ok(ExitCode::SUCCESS)
}

/// A client of the administrator, and the CA of the server in PEM.
async fn admin(matches: &ArgMatches) -> anyhow::Result<(Client, String)> {
    let path = matches.get_one::<String>("kubeconfig").cloned().unwrap_or_default();
    let file = Kubeconfig::read_from(&path).with_context(|| format!("read kubeconfig {path}"))?;
    let cluster = file.clusters.first().and_then(|c| c.cluster.as_ref());
    let coded = cluster.and_then(|c| c.certificate_authority_data.clone()).unwrap_or_default();
    let ca = base64::engine::general_purpose::STANDARD
        .decode(coded)
        .ok()
        .and_then(|b| String::from_utf8(b).ok())
        .filter(|pem| !pem.is_empty())
        .with_context(|| format!("kubeconfig {path}: no certificate-authority-data"))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok((Client::try_from(config)?, ca))
}

fn values<'a>(matches: &'a ArgMatches, name: &str) -> Vec<&'a str> {
    matches
        .get_many::<String>(name)
        .into_iter()
        .flatten()
        .map(String::as_str)
        .filter(|v| !v.is_empty())
        .collect()
}

/// A Go duration such as `24h`, `1h30m`, `90s`, or `0`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut total = 0i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: i64 = rest[..digits].parse().ok()?;
        let unit = match rest[digits..].chars().next() {
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            None if text == "0" => return Some(SignedDuration::ZERO),
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then(|| SignedDuration::from_secs(total))
}

/// What the command line asks for as a secret, and the token.
fn secret(
    given: Option<&str>,
    description: &str,
    groups: &[&str],
    ttl: &str,
    usages: &[&str],
    now: Timestamp,
) -> anyhow::Result<(Secret, String)> {
    let whole = given.map_or_else(token::generate, str::to_string);
    let (id, part) = token::bootstrap(&whole)
        .context("TOKEN: it must be <id>.<secret>, six and sixteen of a-z and 0-9")?;
    let ttl =
        duration(ttl).with_context(|| format!("--ttl: {ttl:?} is not a duration such as 24h or 90m"))?;
    if let Some(bad) = groups.iter().find(|g| !is_extra_group(g)) {
        anyhow::bail!(
            "--groups: {bad:?} does not begin with \"system:bootstrappers:\" followed by a-z, 0-9, : or -"
        );
    }
    if let Some(bad) = usages.iter().find(|u| !USAGES.contains(u)) {
        anyhow::bail!("--usages: {bad:?} is not one of {}", USAGES.join(", "));
    }
    let mut data = BTreeMap::from([
        ("token-id".to_string(), id.to_string()),
        ("token-secret".to_string(), part.to_string()),
    ]);
    data.extend(usages.iter().map(|u| (format!("{USAGE}{u}"), "true".to_string())));
    if !ttl.is_zero() {
        let end =
            Timestamp::from_second(now.as_second())?.checked_add(ttl).context("--ttl: it is too long")?;
        data.insert("expiration".to_string(), end.to_string());
    }
    for (key, value) in [("description", description.to_string()), ("auth-extra-groups", groups.join(","))] {
        if !value.is_empty() {
            data.insert(key.to_string(), value);
        }
    }
    let mut secret =
        Secret { type_: Some(SECRET_TYPE.to_string()), string_data: Some(data), ..Secret::default() };
    secret.metadata.name = Some(format!("{NAME}{id}"));
    Ok((secret, whole))
}

async fn create(matches: &ArgMatches) -> anyhow::Result<()> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let (object, whole) = secret(
        text("TOKEN"),
        text("description").unwrap_or_default(),
        &values(matches, "groups"),
        text("ttl").unwrap_or(DEFAULT_TTL),
        &values(matches, "usages"),
        Timestamp::now(),
    )?;
    let (client, ca) = admin(matches).await?;
    let api: Api<Secret> = Api::namespaced(client, NAMESPACE);
    api.create(&PostParams::default(), &object).await.context("create bootstrap token")?;
    println!("{PREFIX}{}::{whole}", token::ca_hash(&ca));
    Ok(())
}

/// A line of the list.
struct Row {
    id: String,
    expires: Option<Timestamp>,
    usages: Vec<String>,
    description: String,
    groups: String,
}

impl Row {
    fn of(secret: &Secret) -> Self {
        let field = |name: &str| {
            let bytes = secret.data.as_ref().and_then(|d| d.get(name)).map(|b| b.0.clone());
            String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
        };
        let used = |usage: &&&str| field(&format!("{USAGE}{usage}")) == "true";
        Self {
            id: field("token-id"),
            expires: field("expiration").parse().ok(),
            usages: USAGES.iter().filter(used).map(|u| (*u).to_string()).collect(),
            description: field("description"),
            groups: field("auth-extra-groups"),
        }
    }

    fn ttl(&self, now: Timestamp) -> String {
        match self.expires.map(|at| at.as_second() - now.as_second()) {
            None => "<forever>".to_string(),
            Some(left) if left <= 0 => "<expired>".to_string(),
            Some(left) if left < 60 => format!("{left}s"),
            Some(left) if left < 3600 => format!("{}m", left / 60),
            Some(left) => format!("{}h", left / 3600),
        }
    }
}

async fn list(matches: &ArgMatches) -> anyhow::Result<()> {
    let (client, _) = admin(matches).await?;
    let only = ListParams::default().fields(&format!("type={SECRET_TYPE}"));
    let api: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let rows: Vec<Row> =
        api.list(&only).await.context("list bootstrap tokens")?.items.iter().map(Row::of).collect();
    let now = Timestamp::now();
    if matches.get_one::<String>("output").is_some_and(|o| o == "json") {
        let all: Vec<_> = rows
            .iter()
            .map(|r| {
                json!({"id": r.id, "expires": r.expires.map(|e| e.to_string()), "usages": r.usages,
                    "description": r.description, "groups": r.groups.split(',').filter(|g| !g.is_empty()).collect::<Vec<_>>()})
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let mut table = vec![["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "GROUPS"].map(String::from)];
    table.extend(rows.iter().map(|r| {
        let or_none = |text: &str| if text.is_empty() { "<none>".to_string() } else { text.to_string() };
        let expires = r.expires.map_or("<never>".to_string(), |e| e.to_string());
        [
            r.id.clone(),
            r.ttl(now),
            expires,
            or_none(&r.usages.join(",")),
            or_none(&r.description),
            or_none(&r.groups),
        ]
    }));
    for line in &table {
        let cells = line.iter().enumerate().map(|(i, cell)| {
            let width = table.iter().map(|l| l[i].chars().count()).max().unwrap_or(0);
            format!("{cell:width$}")
        });
        println!("{}", cells.collect::<Vec<_>>().join("   ").trim_end());
    }
    Ok(())
}

async fn delete(matches: &ArgMatches) -> anyhow::Result<()> {
    let (client, _) = admin(matches).await?;
    let api: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let mut failures = Vec::new();
    for given in values(matches, "ID") {
        let whole = given.rsplit("::").next().unwrap_or(given);
        let id = whole.split_once('.').map_or(whole, |(id, _)| id);
        match api.delete(&format!("{NAME}{id}"), &DeleteParams::default()).await {
            Ok(gone) => println!(
                "bootstrap token {id:?} deleted",
                id =
                    gone.left().map_or(id.to_string(), |s| s.name_any().trim_start_matches(NAME).to_string())
            ),
            Err(kube::Error::Api(s)) if s.code == 404 => {
                failures.push(format!("bootstrap token {id:?} does not exist"))
            }
            Err(error) => failures.push(format!("delete bootstrap token {id:?}: {error}")),
        }
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

async fn rotate(matches: &ArgMatches) -> anyhow::Result<()> {
    let (client, ca) = admin(matches).await?;
    let password = matches.get_one::<String>("new-token").cloned().unwrap_or_else(token::password);
    let body = json!({"password": password}).to_string().into_bytes();
    let request = axum::http::Request::put("/v1-knarr/token").body(body).context("--new-token")?;
    client.request_text(request).await.map_err(|error| match error {
        kube::Error::Api(status) => anyhow::anyhow!("rotate the join token: {}", status.message.trim()),
        other => anyhow::Error::new(other).context("rotate the join token"),
    })?;
    println!("{}", knarr_pki::Token::secure(&ca, "server", &password));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("24h", Some(86_400)),
            ("1h30m", Some(5_400)),
            ("90s", Some(90)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("1d", None),
            ("-1h", None),
        ] {
            assert_eq!(duration(text).map(|d| d.as_secs()), want, "{text}");
        }
    }

    #[test]
    fn tokens_become_secrets() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let make = |token, groups: &[&str], ttl, usages: &[&str]| {
            secret(token, "for tests", groups, ttl, usages, now).map_err(|e| e.to_string())
        };
        let (object, whole) =
            make(Some("abcdef.0123456789abcdef"), &[DEFAULT_GROUP], "24h", &["authentication"]).unwrap();
        assert_eq!(whole, "abcdef.0123456789abcdef");
        let data = object.string_data.unwrap();
        assert_eq!(object.metadata.name.as_deref(), Some("bootstrap-token-abcdef"));
        assert_eq!(data["expiration"], "2026-01-02T00:00:00Z");
        assert_eq!(data["usage-bootstrap-authentication"], "true");
        assert!(!data.contains_key("usage-bootstrap-signing"));
        assert!(!make(None, &[], "0", &[]).unwrap().0.string_data.unwrap().contains_key("expiration"));
        for (outcome, want) in [
            (make(Some("abc"), &[], "24h", &[]), "TOKEN: "),
            (make(None, &["system:masters"], "24h", &[]), "--groups: \"system:masters\""),
            (make(None, &[], "soon", &[]), "--ttl: \"soon\""),
            (make(None, &[], "1h", &["everything"]), "--usages: \"everything\""),
        ] {
            let error = outcome.unwrap_err();
            assert!(error.starts_with(want), "{error}");
        }
    }

    #[test]
    fn rows() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let row = |expires: &str| Row {
            id: "a".into(),
            expires: expires.parse().ok(),
            usages: vec![],
            description: String::new(),
            groups: String::new(),
        };
        for (expires, want) in [
            ("", "<forever>"),
            ("2025-01-01T00:00:00Z", "<expired>"),
            ("2026-01-01T00:00:30Z", "30s"),
            ("2026-01-01T00:30:00Z", "30m"),
            ("2026-01-02T00:00:00Z", "24h"),
        ] {
            assert_eq!(row(expires).ttl(now), want);
        }
    }
}
