//! Every call of the protocol and who may make it: the one table that authorisation goes by.
//!
//! A test compares it with the protobuf descriptors, so that a new call cannot be forgotten here.

use super::roles::Role;

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The cluster as a whole: closed to credentials that are for one run.
    Cluster,
    /// One run: the first field of the request names it.
    Run,
}

/// A call and what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its path in HTTP.
    pub path: &'static str,
    /// The role that may make it.
    pub role: Role,
    /// What it is about.
    pub about: About,
}

const fn call(path: &'static str, role: Role, about: About) -> Call {
    Call { path, role, about }
}

/// All calls there are.
pub const CALLS: &[Call] = &[
    call(
        "/dagrun.cluster.v1.Workers/Join",
        Role::Worker,
        About::Cluster,
    ),
    call(
        "/dagrun.cluster.v1.Blobs/Read",
        Role::CacheRead,
        About::Cluster,
    ),
    call(
        "/dagrun.cluster.v1.Blobs/Find",
        Role::CacheRead,
        About::Cluster,
    ),
    call(
        "/dagrun.cluster.v1.Blobs/Write",
        Role::CacheWrite,
        About::Cluster,
    ),
    call(
        "/dagrun.cluster.v1.Blobs/Spare",
        Role::Worker,
        About::Cluster,
    ),
    call(
        "/dagrun.cluster.v1.Runs/Submit",
        Role::Submit,
        About::Cluster,
    ),
    call("/dagrun.cluster.v1.Runs/Follow", Role::Viewer, About::Run),
    call("/dagrun.cluster.v1.Runs/Cancel", Role::Submit, About::Run),
    call("/dagrun.cluster.v1.Runs/List", Role::Viewer, About::Cluster),
    call(
        "/dagrun.cluster.v1.Runs/Results",
        Role::CacheRead,
        About::Cluster,
    ),
    call("/dagrun.cluster.v1.Runs/Studies", Role::Viewer, About::Run),
    call(
        "/dagrun.cluster.v1.Cluster/Status",
        Role::Viewer,
        About::Cluster,
    ),
    call(
        "/dagrun.cluster.v1.Cluster/Drain",
        Role::Admin,
        About::Cluster,
    ),
];

/// The call at a path.
pub(super) fn find(path: &str) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::security::testing::{FieldKind, methods};

    #[test]
    fn the_table_has_every_call_of_the_protocol_and_no_other() {
        let there: BTreeSet<_> = methods().into_iter().map(|method| method.path).collect();
        let rows: BTreeSet<_> = CALLS.iter().map(|call| call.path.to_owned()).collect();
        assert_eq!(rows.len(), CALLS.len(), "a call has two rows");
        assert_eq!(rows, there);
        assert!(there.len() >= 10);
    }

    /// The gate reads field 1 of such requests as the run; it must be one.
    #[test]
    fn calls_about_a_run_name_it_first() {
        for method in methods() {
            let names_a_run = method.first_field == Some(("run".to_owned(), FieldKind::String));
            let row = find(&method.path).unwrap();
            assert_eq!(
                row.about == About::Run,
                names_a_run && !method.client_streaming,
                "{}",
                method.path
            );
        }
    }

    /// The page of the roles is this table.
    #[test]
    fn the_reference_has_the_table_of_roles() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../docs/reference/cluster.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut table = String::from("| call |");
        for role in Role::ALL {
            table.push_str(&format!(" {role} |"));
        }
        table.push_str(" for one run |\n|---|---|---|---|---|---|---|---|\n");
        for call in CALLS {
            let short = call.path.rsplit(['.']).next().unwrap().replace('/', ".");
            table.push_str(&format!("| `{short}` |"));
            for role in Role::ALL {
                let may = role.included().allow(call.role);
                table.push_str(if may { " yes |" } else { " – |" });
            }
            let one_run = call.about == About::Run;
            table.push_str(if one_run { " yes |\n" } else { " – |\n" });
        }
        assert!(
            page.contains(&table),
            "docs/reference/cluster.md should have\n{table}"
        );
    }
}
