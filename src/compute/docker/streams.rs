//! Docker's part in what people ask of a container that runs.

use super::{Docker, exec, figures, output};
use crate::compute::streams::{Command, Execution, Figures, OutputWish, Pieces, Streams};
use crate::compute::{Driver, Error, Observed};
use futures::stream::BoxStream;

#[async_trait::async_trait]
impl Streams for Docker {
    async fn find(&self, id: &str) -> Result<Option<Observed>, Error> {
        self.observe(id).await
    }

    async fn output(&self, external_id: &str, wish: &OutputWish) -> Result<Pieces, Error> {
        output::wished(self, external_id, wish)
    }

    async fn execute(&self, external_id: &str, command: &Command) -> Result<Execution, Error> {
        exec::begin(self, external_id, command).await
    }

    async fn figures(&self, external_id: &str) -> Result<BoxStream<'static, Result<Figures, Error>>, Error> {
        figures::follow(self, external_id)
    }
}
