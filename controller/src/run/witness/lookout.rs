//! Asks the witness again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::admin::WitnessAdmin;
use super::ledger::Sighting;

/// The time between two looks while something is waited for.
const HASTE: Duration = Duration::from_millis(50);
/// The time between two looks while nothing is.
const LEISURE: Duration = Duration::from_secs(2);

/// What the last look has shown; none before the first one. The error says why there is no answer.
pub type Look = Option<Result<Sighting, Arc<str>>>;

/// Looks until every receiver is dropped. `haste` says whether anything is waited for, and `tell` is
/// told whether there was an answer.
pub async fn run(
    admin: WitnessAdmin,
    looks: watch::Sender<Look>,
    mut haste: watch::Receiver<bool>,
    tell: impl Fn(bool),
) {
    loop {
        let answer = admin.look().await.map_err(Arc::from);
        let is_lost = answer.is_err();
        tell(!is_lost);
        looks.send_replace(Some(answer));
        let is_hasty = *haste.borrow_and_update();
        let wait = match is_hasty {
            true if is_lost => HASTE * 10,
            true => HASTE,
            false => LEISURE,
        };
        tokio::select! {
            () = looks.closed() => return,
            () = tokio::time::sleep(wait) => {}
            changed = haste.changed(), if !is_hasty => if changed.is_err() { return },
        }
    }
}
