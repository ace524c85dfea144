//! Tokens: 256 random bits for somebody, of which the coordinator keeps only a hash.
//!
//! The file has a line for each: `NAME ROLES EXPIRES SCOPE HASH`. Who loses their line loses their access.

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use blake3::Hash;

use super::{
    error::Error,
    files,
    roles::{Role, Roles},
};

/// What a token begins with: people and scanners for secrets know it by that.
const PREFIX: &str = "dagrun_";

/// Domain of the hash: the same bytes elsewhere hash to something else.
const CONTEXT: &str = "dagrun 2026 cluster token";

/// The first line of a token file.
const HEADER: &str =
    "# NAME ROLES EXPIRES SCOPE HASH: tokens of this cluster. Remove a line to revoke a token.\n";

/// A secret that nothing prints.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret, without the white space around it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The secret itself, for the wire and for the one time when its owner is told.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A token as the coordinator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is; also what it is revoked by.
    pub name: String,
    /// What its holder may do.
    pub roles: Roles,
    /// When it ends.
    pub expires: SystemTime,
    /// The only run that it is for.
    pub run: Option<String>,
    hash: Hash,
}

impl Token {
    /// A new token and its secret, made of 32 random bytes.
    pub fn new(
        name: &str,
        roles: Roles,
        expires: SystemTime,
        run: Option<String>,
        random: [u8; 32],
    ) -> Result<(Self, Secret), Error> {
        check_name(name)?;
        if let Some(run) = &run {
            check_word("run", run)?;
            check_roles_of_a_run(roles)?;
        }
        if roles.is_empty() {
            return Err(Error::settings("a token without a role opens nothing"));
        }
        let secret = Secret(format!("{PREFIX}{}", Hash::from_bytes(random).to_hex()));
        let hash = hash(&secret.0);
        let token = Self {
            name: name.to_owned(),
            roles,
            expires,
            run,
            hash,
        };
        Ok((token, secret))
    }

    /// Whether it has ended.
    pub fn expired(&self, now: SystemTime) -> bool {
        now >= self.expires
    }

    fn line(&self) -> String {
        let expires = humantime::format_rfc3339_seconds(self.expires);
        let scope = match &self.run {
            Some(run) => format!("run:{run}"),
            None => "-".into(),
        };
        let Self {
            name, roles, hash, ..
        } = self;
        format!("{name} {roles} {expires} {scope} {}\n", hash.to_hex())
    }

    fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let [name, roles, expires, scope, hash] = words[..] else {
            return Err(format!(
                "{} words, not NAME ROLES EXPIRES SCOPE HASH",
                words.len()
            ));
        };
        check_name(name).map_err(|error| error.message)?;
        let expires = humantime::parse_rfc3339_weak(expires)
            .map_err(|_| format!("`{expires}` is no time such as 2027-01-31T00:00:00Z"))?;
        let run = match (scope, scope.strip_prefix("run:")) {
            ("-", _) => None,
            (_, Some(run)) if !run.is_empty() => Some(run.to_owned()),
            _ => return Err(format!("`{scope}` is no scope; write `-` or `run:RUN`")),
        };
        Ok(Self {
            name: name.to_owned(),
            roles: Roles::parse(roles)?,
            expires,
            run,
            hash: Hash::from_hex(hash).map_err(|_| "the hash is not 64 hexadecimal digits")?,
        })
    }
}

/// Calls about a run ask for these roles; another one would open nothing, and say that it does.
fn check_roles_of_a_run(roles: Roles) -> Result<(), Error> {
    match roles
        .iter()
        .find(|role| !matches!(role, Role::Viewer | Role::Submit))
    {
        None => Ok(()),
        Some(role) => Err(Error::settings(format!(
            "a token for one run follows (viewer) or cancels (submit) that run; `{role}` is for the whole cluster"
        ))),
    }
}

/// Names of tokens and certificates: what is safe in files, paths, URIs and logs.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    check_word("name", name)
}

fn check_word(what: &str, word: &str) -> Result<(), Error> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if word.is_empty() || word.len() > 64 || !word.chars().all(fine) || word.starts_with(['.', '-'])
    {
        return Err(Error::settings(format!(
            "`{}` is no {what}: up to 64 letters, digits and -_.@, not beginning with - or .",
            word.escape_debug()
        )));
    }
    Ok(())
}

fn hash(secret: &str) -> Hash {
    blake3::Hasher::new_derive_key(CONTEXT)
        .update(secret.as_bytes())
        .finalize()
}

/// The tokens of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// Reads a token file; one that is not there has no tokens.
    pub fn read(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            return Ok(Self::default());
        }
        Self::parse(&files::read_secret(path)?).map_err(|(line, message)| {
            Error::settings(format!("{}:{line}: {message}", path.display()))
        })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut tokens: Vec<Token> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let token = Token::parse(line).map_err(|message| (at + 1, message))?;
            if tokens.iter().any(|other| other.name == token.name) {
                return Err((at + 1, format!("two tokens have the name `{}`", token.name)));
            }
            tokens.push(token);
        }
        Ok(Self(tokens))
    }

    /// Writes the file in the place of the old one.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let lines: String = self.0.iter().map(Token::line).collect();
        files::replace(path, &format!("{HEADER}{lines}"))
    }

    /// Adds a token; names are given once.
    pub fn add(&mut self, token: Token) -> Result<(), Error> {
        if self.0.iter().any(|other| other.name == token.name) {
            return Err(
                Error::settings(format!("there is a token `{}` already", token.name)).hint(
                    format!(
                        "dagrun cluster token revoke {}, or choose another name",
                        token.name
                    ),
                ),
            );
        }
        self.0.push(token);
        Ok(())
    }

    /// Takes a token out; whether there was one.
    pub fn revoke(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|token| token.name != name);
        self.0.len() < before
    }

    /// All tokens, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Token> {
        self.0.iter()
    }

    /// The token of a secret, expired or not. Compares with all in constant time, so that time tells nothing about any.
    pub(super) fn find(&self, secret: &str) -> Option<&Token> {
        let hash = hash(secret);
        let mut found = None;
        for token in &self.0 {
            // `blake3::Hash` compares in constant time.
            if token.hash == hash {
                found = Some(token);
            }
        }
        found
    }

    /// Whether a token that was valid once still is.
    pub(super) fn still(&self, token: &Token, now: SystemTime) -> bool {
        !token.expired(now) && self.0.iter().any(|other| other == token)
    }
}

/// When something of so many days from now ends.
pub fn in_days(now: SystemTime, days: u32) -> SystemTime {
    now + Duration::from_secs(u64::from(days) * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, random: u8) -> (Token, Secret) {
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        Token::new(
            name,
            Roles::of(&[Role::Submit]),
            expires,
            None,
            [random; 32],
        )
        .unwrap()
    }

    #[test]
    fn a_file_has_no_secret_and_reads_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert_eq!(Tokens::read(&path).unwrap(), Tokens::default());
        let (one, secret) = token("laptop", 7);
        let mut two = token("ci@main", 8).0;
        two.run = Some("20260101-1".into());
        let mut tokens = Tokens::default();
        tokens.add(one.clone()).unwrap();
        tokens.add(two.clone()).unwrap();
        tokens.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(secret.reveal()) && !text.contains(&secret.reveal()[7..]));
        assert_eq!(Tokens::read(&path).unwrap(), tokens);
        assert_eq!(tokens.find(secret.reveal()), Some(&one));
        assert_eq!(tokens.find("dagrun_"), None);
        assert!(tokens.revoke("laptop") && !tokens.revoke("laptop"));
        assert_eq!(tokens.find(secret.reveal()), None);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn the_hash_of_a_token_never_changes() {
        let (token, secret) = token("a", 0xab);
        assert_eq!(secret.reveal(), format!("dagrun_{}", "ab".repeat(32)));
        assert_eq!(
            token.line(),
            "a submit 2030-03-17T17:46:40Z - 9b9600644c5ef6e4d21636cb338b5f0bfa61209b32e6c016a4e15d380b38ba93\n"
        );
    }

    #[test]
    fn bad_lines_are_named() {
        let hash = "0".repeat(64);
        for (line, says) in [
            ("a submit 2030-01-01T00:00:00Z -".to_owned(), "4 words"),
            (
                format!("a boss 2030-01-01T00:00:00Z - {hash}"),
                "unknown role",
            ),
            (format!("a submit soon - {hash}"), "no time"),
            (
                format!("a submit 2030-01-01T00:00:00Z all {hash}"),
                "no scope",
            ),
            (
                format!("a submit 2030-01-01T00:00:00Z run: {hash}"),
                "no scope",
            ),
            (
                "a submit 2030-01-01T00:00:00Z - 00".to_owned(),
                "hexadecimal",
            ),
            (
                format!("../a submit 2030-01-01T00:00:00Z - {hash}"),
                "is no name",
            ),
        ] {
            let (at, message) = Tokens::parse(&format!("# head\n\n{line}\n")).unwrap_err();
            assert_eq!(at, 3);
            assert!(message.contains(says), "{line}: {message}");
        }
        let line = format!("a submit 2030-01-01T00:00:00Z - {hash}\n");
        assert!(
            Tokens::parse(&line.repeat(2))
                .unwrap_err()
                .1
                .contains("two tokens")
        );
    }

    #[test]
    fn a_token_for_a_run_has_roles_that_concern_runs() {
        let make = |roles: &[Role]| {
            let run = Some("r1".to_owned());
            Token::new("a", Roles::of(roles), SystemTime::UNIX_EPOCH, run, [1; 32])
        };
        assert!(make(&[Role::Viewer, Role::Submit]).is_ok());
        let error = make(&[Role::Admin]).unwrap_err().to_string();
        assert!(error.contains("whole cluster"), "{error}");
    }
}
