//! The terms of the pool's connections. Knows nothing of messages, nor of who may connect: that is `security`.

use crate::security::Bound;

/// Services beside those that a socket is for.
pub use tonic::service::Routes;

/// Serves connections until the runtime ends.
pub(crate) async fn serve(bound: Bound, routes: Routes) {
    let server = bound.gate().server().add_routes(routes);
    let served = match bound.incoming() {
        Ok(incoming) => server.serve_with_incoming(incoming).await,
        Err(error) => return tracing::error!("cannot listen: {error}"),
    };
    if let Err(error) = served {
        tracing::error!("the server ended: {error}");
    }
}

/// An error with all that led to it, without what says nothing.
pub(crate) fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let own = error.to_string();
        if own != "transport error" && !text.ends_with(&own) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&own);
        }
        next = error.source();
    }
    text
}
