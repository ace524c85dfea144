//! `dagrun cluster init`, `cert`, `revoke` and `token`: who may do what in a cluster.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use dagrun_cluster::security::{
    Error, Kind, Role, Roles, Token, Tokens,
    authority::{Authority, COORDINATOR, Wanted, random, roles_of_coordinator},
    in_days,
};
use serde_json::json;

use crate::{
    args::{CredentialsCommand, RoleName, TokenCommand},
    credentials::security_error,
    error::Done,
    put, say,
    term::{Ink, Style, plural, table},
};

/// The port that commands name where nobody chose one.
const PORT: u16 = 7460;

/// Names of this machine that every coordinator's certificate has.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

pub(crate) fn run(command: &CredentialsCommand, style: Style) -> Done {
    let done = match command {
        CredentialsCommand::Init { dir, name, hosts } => init(dir, name, hosts, style),
        CredentialsCommand::Cert {
            name,
            roles,
            hosts,
            renew,
            days,
            of,
        } => cert(&of.dir, name, roles, hosts, *renew, *days),
        CredentialsCommand::Revoke { name, of } => revoke(&of.dir, name),
        CredentialsCommand::Token(command) => token(command),
    };
    done.map_err(security_error)
}

/// Roles by their names on the command line.
fn roles_of(names: &[RoleName]) -> Roles {
    names.iter().fold(Roles::none(), |all, name| {
        all.with(match name {
            RoleName::Viewer => Role::Viewer,
            RoleName::Submit => Role::Submit,
            RoleName::Worker => Role::Worker,
            RoleName::CacheRead => Role::CacheRead,
            RoleName::CacheWrite => Role::CacheWrite,
            RoleName::Admin => Role::Admin,
        })
    })
}

fn init(dir: &Path, name: &str, hosts: &[String], style: Style) -> Result<u8, Error> {
    let mut all = hosts.to_vec();
    if all.is_empty() {
        let here = rustix::system::uname();
        all.push(here.nodename().to_string_lossy().into_owned());
    }
    let host = all[0].clone();
    for name in LOOPBACK {
        if !all.iter().any(|host| host == name) {
            all.push(name.to_owned());
        }
    }
    let now = SystemTime::now();
    let authority = Authority::found(dir, name, &all, now)?;
    let server = authority.facts(COORDINATOR)?;
    let at = if host.contains(':') {
        format!("[{host}]:{PORT}")
    } else {
        format!("{host}:{PORT}")
    };
    put!(
        "made cluster {} in {}",
        style.paint_out(Ink::Bold, name),
        dir.display()
    );
    let folder = |role: Role| shown(&authority.client_folder(role.name()));
    let rows = [
        (
            shown(&authority.server_folder()),
            format!(
                "dagrun serve --listen 0.0.0.0:{PORT} --tls {}",
                shown(&authority.server_folder())
            ),
        ),
        (
            folder(Role::Worker),
            format!(
                "dagrun worker --connect {at} --tls {}",
                folder(Role::Worker)
            ),
        ),
        (
            folder(Role::Submit),
            format!("dagrun FILE --on {at} --tls {}", folder(Role::Submit)),
        ),
        (
            folder(Role::Viewer),
            format!(
                "dagrun cluster status --on {at} --tls {}",
                folder(Role::Viewer)
            ),
        ),
        (
            folder(Role::Admin),
            format!(
                "dagrun cluster drain WORKER --on {at} --tls {}",
                folder(Role::Admin)
            ),
        ),
    ];
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(folder, command)| vec![folder, command])
        .collect();
    put!("{}", table(&["copy", "to where this is run"], &rows));
    say!(
        "the coordinator is known as {}; `dagrun cluster cert {COORDINATOR} --renew --host HOST --dir {}` adds a name",
        all.join(", "),
        dir.display()
    );
    say!(
        "certificates end at {}; `dagrun cluster cert NAME --renew` makes new ones, which are used without a restart",
        day(server.not_after)
    );
    say!(
        "{} signs certificates: keep it safe, and off the cluster",
        dir.join("ca.key").display()
    );
    Ok(0)
}

fn cert(
    dir: &Path,
    name: &str,
    roles: &[RoleName],
    hosts: &[String],
    renew: bool,
    days: u32,
) -> Result<u8, Error> {
    let authority = Authority::open(dir)?;
    let mut wanted = Wanted {
        name,
        roles: roles_of(roles),
        hosts: Vec::new(),
        expires: in_days(SystemTime::now(), days),
    };
    if renew {
        let old = authority.facts(name)?;
        wanted.hosts = old.hosts;
        if roles.is_empty() {
            wanted.roles = old.roles;
        }
    }
    if name == COORDINATOR {
        wanted.roles = roles_of_coordinator();
    }
    for host in hosts {
        if !wanted.hosts.contains(host) {
            wanted.hosts.push(host.clone());
        }
    }
    let folder = authority.issue(&wanted, renew)?;
    put!("{}", folder.display());
    say!(
        "certificate `{name}` ({}) until {}: copy the folder to where it is used, and name it by --tls",
        wanted.roles,
        day(wanted.expires)
    );
    Ok(0)
}

fn revoke(dir: &Path, name: &str) -> Result<u8, Error> {
    let authority = Authority::open(dir)?;
    let revoked = authority.revoke(name)?;
    say!(
        "revoked {} of `{name}`; where the coordinator is elsewhere, and on workers, copy {} into the folder of --tls",
        plural(revoked as u64, "certificate"),
        authority.server_folder().join("revoked").display()
    );
    Ok(0)
}

fn token(command: &TokenCommand) -> Result<u8, Error> {
    match command {
        TokenCommand::Add {
            name,
            roles,
            run,
            days,
            of,
        } => add(&of.dir, name, roles_of(roles), run.clone(), *days),
        TokenCommand::List { of, answer } => list(&of.dir, answer.json),
        TokenCommand::Revoke { name, of } => take_back(&of.dir, name),
    }
}

/// The token file: in the folder of a CA, or in the coordinator's own folder, where the CA may be elsewhere.
fn token_file(dir: &Path) -> Result<PathBuf, Error> {
    let own = dir.join("tokens");
    if own.exists() {
        return Ok(own);
    }
    Ok(Authority::open(dir)?.tokens())
}

fn add(dir: &Path, name: &str, roles: Roles, run: Option<String>, days: u32) -> Result<u8, Error> {
    let file = token_file(dir)?;
    let mut tokens = Tokens::read(&file)?;
    let expires = in_days(SystemTime::now(), days);
    let (token, secret) = Token::new(name, roles, expires, run, random()?)?;
    tokens.add(token)?;
    tokens.write(&file)?;
    put!("{}", secret.reveal());
    say!(
        "token `{name}` ({roles}) until {}: shown this once. It goes into a file (chmod 600) for --token-file, or into DAGRUN_TOKEN",
        day(expires)
    );
    say!(
        "where the coordinator is elsewhere, copy {} into its folder of --tls; no restart is needed",
        file.display()
    );
    Ok(0)
}

fn list(dir: &Path, as_json: bool) -> Result<u8, Error> {
    let tokens = Tokens::read(&token_file(dir)?)?;
    let now = SystemTime::now();
    if as_json {
        let rows: Vec<_> = tokens
            .iter()
            .map(|token| {
                json!({
                    "name": token.name,
                    "roles": token.roles.iter().map(Role::name).collect::<Vec<_>>(),
                    "expires": day(token.expires),
                    "expired": token.expired(now),
                    "run": token.run,
                })
            })
            .collect();
        put!("{:#}", serde_json::Value::from(rows));
        return Ok(0);
    }
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            let ended = if token.expired(now) { " (expired)" } else { "" };
            vec![
                token.name.clone(),
                token.roles.to_string(),
                format!("{}{ended}", day(token.expires)),
                token.run.clone().unwrap_or_else(|| "all".into()),
            ]
        })
        .collect();
    put!("{}", table(&["name", "roles", "until", "runs"], &rows));
    Ok(0)
}

fn take_back(dir: &Path, name: &str) -> Result<u8, Error> {
    let file = token_file(dir)?;
    let mut tokens = Tokens::read(&file)?;
    if !tokens.revoke(name) {
        let known: Vec<_> = tokens.iter().map(|token| token.name.as_str()).collect();
        return Err(Error {
            kind: Kind::Settings,
            message: format!("there is no token `{name}`"),
            hint: Some(format!("known: {}", known.join(", "))),
        });
    }
    tokens.write(&file)?;
    say!(
        "revoked token `{name}`; where the coordinator is elsewhere, copy {} into its folder of --tls",
        file.display()
    );
    Ok(0)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn day(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn roles_have_one_name() {
        let names = RoleName::value_variants().iter().map(|name| {
            let role = roles_of(&[*name]).iter().next().unwrap();
            assert_eq!(name.to_possible_value().unwrap().get_name(), role.name());
            role
        });
        assert_eq!(names.collect::<Vec<_>>(), Role::ALL);
    }

    #[test]
    fn lifetimes_are_those_of_the_library() {
        use dagrun_cluster::security::authority::{DAYS, TOKEN_DAYS};
        assert_eq!((DAYS, TOKEN_DAYS), (398, 90));
    }
}
