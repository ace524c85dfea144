//! Studies of real processes that sleep, by the release binary, beside peers.

use super::{Bench, Group};

/// What real processes give.
pub(super) fn groups(_bench: &Bench) -> Result<Vec<Group>, String> {
    Ok(Vec::new())
}
