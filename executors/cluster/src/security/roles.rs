//! Roles and what each includes. Knows nothing of calls, certificates or tokens.

use std::fmt;

/// What somebody may do in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks at runs and workers.
    Viewer,
    /// Submits and cancels runs.
    Submit,
    /// Runs nodes.
    Worker,
    /// Reads blobs.
    CacheRead,
    /// Writes blobs.
    CacheWrite,
    /// Everything.
    Admin,
}

impl Role {
    /// All roles, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Viewer,
        Self::Submit,
        Self::Worker,
        Self::CacheRead,
        Self::CacheWrite,
        Self::Admin,
    ];

    /// The role's name in certificates, token files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submit => "submit",
            Self::Worker => "worker",
            Self::CacheRead => "cache-read",
            Self::CacheWrite => "cache-write",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The role and all that it includes: the lattice.
    ///
    /// Who submits runs writes the project's files as blobs, reads results and follows the run; a worker reads inputs. Writing
    /// blobs includes reading them, since whoever may add may also ask what is there.
    pub fn included(self) -> Roles {
        let also: &[Self] = match self {
            Self::Viewer | Self::CacheRead => &[],
            Self::Worker | Self::CacheWrite => &[Self::CacheRead],
            Self::Submit => &[Self::Viewer, Self::CacheRead, Self::CacheWrite],
            Self::Admin => &Self::ALL,
        };
        also.iter()
            .fold(Roles::none().with(self), |all, role| all.with(*role))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Roles(u8);

impl Roles {
    /// No role.
    pub const fn none() -> Self {
        Self(0)
    }

    /// The set with `role` as well, and nothing that it includes.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | 1 << role as u8)
    }

    /// The set of these roles.
    pub fn of(roles: &[Role]) -> Self {
        roles.iter().fold(Self::none(), |all, role| all.with(*role))
    }

    /// Reads names with commas between them.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(',').try_fold(Self::none(), |all, name| {
            let role = Role::parse(name.trim()).ok_or_else(|| {
                let known = Role::ALL.map(Role::name).join(", ");
                format!("unknown role `{}`; roles are {known}", name.trim())
            })?;
            Ok(all.with(role))
        })
    }

    /// The roles of the set itself.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL
            .into_iter()
            .filter(move |role| self.0 & (1 << *role as u8) != 0)
    }

    /// Whether one of the roles is `role` or includes it.
    pub fn allow(self, role: Role) -> bool {
        self.iter()
            .any(|mine| mine.included().0 & (1 << role as u8) != 0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Role::name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.name()), Some(role));
        }
        let some = Roles::parse("worker, cache-write").unwrap();
        assert_eq!(some.to_string(), "worker,cache-write");
        assert_eq!(Roles::parse(&some.to_string()), Ok(some));
        assert!(Roles::parse("root").unwrap_err().contains("viewer"));
        assert!(Roles::parse("").is_err());
    }

    /// What is included by what is included is included.
    #[test]
    fn inclusion_is_transitive_and_admin_is_the_top() {
        for a in Role::ALL {
            assert!(a.included().allow(a));
            assert!(Role::Admin.included().allow(a));
            for b in a.included().iter() {
                for c in b.included().iter() {
                    assert!(a.included().iter().any(|role| role == c), "{a} {b} {c}");
                }
            }
        }
        assert!(!Roles::of(&[Role::Submit]).allow(Role::Worker));
        assert!(!Roles::of(&[Role::Worker]).allow(Role::Viewer));
        assert!(!Roles::of(&[Role::Worker]).allow(Role::CacheWrite));
    }
}
