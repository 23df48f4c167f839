//! Where a host hands over what workers ask and answer each other.

use super::examine::proceed;
use super::question::{Answer, ClientInquiry, InquiryId, InquiryOrigin};
use super::table::Asker;
use crate::multiplexer::ids::ClientId;
use crate::multiplexer::reply::EventDelivery;
use std::net::SocketAddr;
use std::sync::Arc;

/// A worker's part in inquiries.
pub struct Desk<'a> {
    pub(in super::super) worker: EventDelivery<'a>,
}

impl Desk<'_> {
    /// A client has connected from one address to another, as far as the host knows them.
    pub fn arrived(&mut self, id: ClientId, remote: Option<SocketAddr>, local: Option<SocketAddr>) {
        if let Some(client) = self.worker.clients.get_mut(id) {
            (client.presence.remote, client.presence.local) = (remote, local);
            (client.presence.since, client.presence.heard) = (self.worker.effects.now, self.worker.effects.now);
        }
    }

    /// An inquiry of this worker, as [`Output::Ask`](super::super::Output::Ask) tells it, was carried to
    /// so many other workers.
    pub fn sent(&mut self, id: InquiryId, others: usize) {
        self.worker.inquiries.sent(id, others);
        self.proceed();
    }

    /// Another worker asks.
    pub fn asked(&mut self, origin: InquiryOrigin, inquiry: Arc<ClientInquiry>) {
        self.worker.inquiries.examine(Asker::Elsewhere(origin), inquiry);
        self.proceed();
    }

    /// Another worker has answered.
    pub fn answered(&mut self, id: InquiryId, answer: Answer) {
        self.worker.inquiries.answered(id, answer);
        self.proceed();
    }

    fn proceed(&mut self) {
        while proceed(&mut self.worker) {
            self.worker.deliver_all();
        }
    }
}
