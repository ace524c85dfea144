//! Every role and every call.

use tonic::Code;

use crate::security::{
    CALLS, Limits, Role,
    testing::{HOUR, Lab, Served, call, connect, methods},
};

/// Who may do what, by the definition of the roles: written here a second time, in another form than in the code.
fn may(role: Role, call: &str) -> bool {
    let calls: &[&str] = match role {
        Role::Admin => return true,
        Role::Viewer => &["Status", "List", "Follow", "Studies"],
        Role::Worker => &["Join", "Read", "Find", "Spare", "Results"],
        Role::CacheRead => &["Read", "Find", "Results"],
        Role::CacheWrite => &["Read", "Find", "Write", "Results"],
        Role::Submit => &[
            "Status", "List", "Follow", "Studies", "Submit", "Cancel", "Read", "Find", "Write",
            "Results",
        ],
    };
    calls.contains(&call.rsplit('/').next().unwrap())
}

#[tokio::test]
async fn every_role_may_make_its_calls_and_no_others() {
    let lab = Lab::new(&["127.0.0.1"]);
    let mut folders = Vec::new();
    for role in Role::ALL {
        let certificate = lab.client(role.name(), &[role], HOUR);
        let token = lab.holder(&format!("t-{role}"), &[role], HOUR, None).0;
        folders.push((Some(role), certificate));
        folders.push((Some(role), token));
    }
    folders.push((None, lab.stranger("nobody")));
    let mut limits = Limits::default();
    // The test is refused more often than anybody else would be.
    limits.refusals.burst = 1_000.0;
    let served = Served::new(&lab.gate(limits), "127.0.0.1:0").await;

    let mut answers = 0;
    for (role, folder) in &folders {
        let channel = connect(folder, &served.at).await.unwrap();
        for method in methods() {
            let path = &method.path;
            let before = served.stub.reached(path);
            let answer = call(&channel, path).await;
            let reached = served.stub.reached(path) - before;
            let who = role.map_or("nobody", Role::name);
            match role {
                Some(role) if may(*role, path) => {
                    assert!(answer.is_ok(), "{who} {path}: {answer:?}");
                    assert_eq!(reached, 1, "{who} {path}");
                }
                Some(_) => {
                    let status = answer.unwrap_err();
                    assert_eq!(status.code(), Code::PermissionDenied, "{who} {path}");
                    assert!(status.message().contains("needs the role"), "{status}");
                    assert!(status.message().contains(" --role "), "{status}");
                    assert_eq!(reached, 0, "{who} {path}");
                }
                None => {
                    let status = answer.unwrap_err();
                    assert_eq!(status.code(), Code::Unauthenticated, "{who} {path}");
                    assert!(status.message().contains("--token-file"), "{status}");
                    assert_eq!(reached, 0, "{who} {path}");
                }
            }
            answers += 1;
        }
    }
    assert_eq!(answers, (2 * Role::ALL.len() + 1) * CALLS.len());
}

#[tokio::test]
async fn a_call_that_is_not_in_the_table_is_refused_even_to_admins() {
    let lab = Lab::new(&["127.0.0.1"]);
    let admin = lab.client("admin", &[Role::Admin], HOUR);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    let channel = connect(&admin, &served.at).await.unwrap();
    for path in [
        "/dagrun.cluster.v1.Cluster/Shutdown",
        "/dagrun.cluster.v1.Cluster/status",
        "/",
    ] {
        let status = call(&channel, path).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}
