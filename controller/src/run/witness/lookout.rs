//! Asks the witnesses again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::admin::WitnessAdmin;
use super::ledger::Sightings;

/// The time between two looks while something is waited for.
const HASTE: Duration = Duration::from_millis(50);
/// The time between two looks while nothing is.
const LEISURE: Duration = Duration::from_secs(2);

/// What the last look has shown; none before the first one. The error says why there is no answer.
pub type Look = Option<Result<Sightings, Arc<str>>>;

/// Looks at all witnesses at once. An error says which one doesn't answer.
pub async fn look(admins: &[WitnessAdmin]) -> Result<Sightings, String> {
    let looks = admins.iter().map(|admin| async {
        let name = |reason| format!("{}: {reason}", admin.url());
        admin.look().await.map_err(name)
    });
    futures::future::try_join_all(looks).await.map(Sightings)
}

/// Looks until every receiver is dropped. `haste` says whether anything is waited for, and `tell` is
/// told whether there was an answer.
pub async fn run(
    admins: Arc<[WitnessAdmin]>,
    looks: watch::Sender<Look>,
    mut haste: watch::Receiver<bool>,
    tell: impl Fn(bool),
) {
    loop {
        let answer = look(&admins).await.map_err(Arc::from);
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
