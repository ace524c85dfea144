//! The local store keeps what every store promises.

use dagrun_store::{Store, StoreOptions, conformance};

#[test]
fn the_local_store_conforms() {
    let folder = dagrun_testkit::scratch();
    conformance::run(&|name| {
        let store = Store::open(&folder.path().join(name), StoreOptions::default());
        Box::new(store.expect("the store opens"))
    });
}
