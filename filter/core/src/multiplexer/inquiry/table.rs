//! The inquiries of a worker: what it has asked, and what it has been asked.

use super::question::{Answer, ClientInquiry, ClientQuestion, InquiryId, InquiryOrigin, UnblockReason};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClientId, ConnectionId};
use crate::multiplexer::outbox::Output;
use crate::multiplexer::timers::Timer;
use crate::multiplexer::upstream::pending::Owner;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How long the workers may take to look through their clients.
const LOOKING: Duration = Duration::from_secs(1);
/// How long it may take until a server has permitted an inquiry, or unblocked a client.
const SERVER: Duration = Duration::from_secs(10);
/// The time after which an inquiry is gone on with.
const TURN: Duration = Duration::from_millis(1);
/// How many clients of a host may ask a worker for CLIENT LIST at a time. Others wait.
const MAX_LISTS: usize = 4;
/// How many bytes the lines of CLIENT LIST may have.
pub const MAX_LINES: usize = 16 * 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct InquiryTable {
    /// The number of the last inquiry, or of the last question to a server.
    last: u64,
    /// The clients of this worker by the numbers that CLIENT ID answers.
    pub numbers: HashMap<u64, ClientId>,
    asked: BTreeMap<InquiryId, Gathering>,
    /// The questions to servers whether inquiries are permitted.
    permissions: HashMap<u64, InquiryId>,
    /// What this worker has been asked and hasn't answered yet.
    pub work: VecDeque<Examination>,
    /// What it has begun to answer, and goes on with in a later turn.
    paused: Vec<Examination>,
    /// What servers have answered, or why they won't, by the numbers of the questions.
    pub server_answers: VecDeque<(u64, Result<Vec<u8>, String>)>,
    /// What is to be answered.
    told: VecDeque<(Asker, Answer)>,
    /// The questions to servers about clients that are to wait no longer.
    questions: BTreeMap<u64, ServerQuestion>,
    /// The clients that are to wait no longer.
    unblocking: BTreeMap<u64, Unblocking>,
}

/// An inquiry of a client of this worker.
#[derive(Debug)]
pub struct Gathering {
    /// The client's command.
    pub owner: Owner,
    /// The inquiry.
    pub inquiry: Arc<ClientInquiry>,
    /// What has been answered.
    pub answers: Vec<Answer>,
    /// How many workers are asked beside this one, as soon as the host has told it.
    others: Option<usize>,
    due: Duration,
}

/// Who has asked this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client of its own.
    Here(InquiryId),
    /// Another worker.
    Elsewhere(InquiryOrigin),
}

/// An inquiry that this worker is answering.
#[derive(Debug)]
pub struct Examination {
    /// Who has asked.
    pub asker: Asker,
    /// The inquiry.
    pub inquiry: Arc<ClientInquiry>,
    /// The slot of the client that is looked at next.
    pub next: usize,
    /// The lines so far, by the clients' numbers.
    pub lines: Vec<(u64, String)>,
    /// How many bytes these have.
    pub size: usize,
}

/// What a server is asked about a connection at which a client waits.
#[derive(Clone, Debug)]
pub struct ServerQuestion {
    /// The client that is to wait no longer.
    pub unblocking: u64,
    /// The connection over which it waits.
    pub blocked: ConnectionId,
    /// The server's number of that.
    pub number: u64,
    /// Its name there.
    pub name: String,
    /// The connection over which the server is asked.
    pub over: ConnectionId,
    /// The server has said that the number and the name belong together, and has been told to unblock
    /// the connection.
    pub is_told: bool,
}

/// A client that is to wait no longer, at one server or several.
#[derive(Debug)]
struct Unblocking {
    asker: Asker,
    /// What its command is answered.
    reason: UnblockReason,
    /// How many servers are still to answer.
    left: usize,
    is_unblocked: bool,
    refusal: Option<String>,
}

impl InquiryTable {
    /// True if another client of the host may ask for this.
    pub fn has_room(&self, question: &ClientQuestion, host: &str) -> bool {
        let is_list = |question: &ClientQuestion| matches!(question, ClientQuestion::List(_));
        let is_same = |inquiry: &ClientInquiry| is_list(&inquiry.question) && inquiry.scope.host == host;
        let lists = self.asked.values().filter(|gathering| is_same(&gathering.inquiry)).count();
        !is_list(question) || lists < MAX_LISTS
    }

    /// A client's command asks all workers.
    pub fn begin(&mut self, owner: Owner, inquiry: ClientInquiry, effects: &mut Effects) {
        let limit = if matches!(inquiry.question, ClientQuestion::Unblock(..)) { SERVER } else { LOOKING };
        let id = self.add(owner, inquiry, limit, effects);
        self.ask_all(id, effects);
    }

    /// A client's command asks all workers as soon as a server permits it. Returns the number of the
    /// question to the server.
    pub fn begin_if_permitted(&mut self, owner: Owner, inquiry: ClientInquiry, effects: &mut Effects) -> u64 {
        let id = self.add(owner, inquiry, LOOKING + SERVER, effects);
        self.last += 1;
        self.permissions.insert(self.last, id);
        self.last
    }

    fn add(&mut self, owner: Owner, inquiry: ClientInquiry, limit: Duration, effects: &mut Effects) -> InquiryId {
        self.last += 1;
        let (id, inquiry, due) = (InquiryId(self.last), Arc::new(inquiry), effects.now + limit);
        effects.timers.add(due, Timer::Inquiries);
        self.asked.insert(id, Gathering { owner, inquiry, answers: Vec::new(), others: None, due });
        id
    }

    fn ask_all(&mut self, id: InquiryId, effects: &mut Effects) {
        let Some(gathering) = self.asked.get(&id) else { return };
        let inquiry = gathering.inquiry.clone();
        effects.outbox.push(Output::Ask(id, inquiry.clone()));
        self.examine(Asker::Here(id), inquiry);
    }

    /// A server has answered a question of this number. Returns true if the question was whether an
    /// inquiry is permitted; `refusal` is why not.
    pub fn permitted(&mut self, question: u64, refusal: Option<String>, effects: &mut Effects) -> bool {
        let Some(id) = self.permissions.remove(&question) else { return false };
        match refusal {
            None => self.ask_all(id, effects),
            Some(refusal) => {
                self.answered(id, Answer::Refused(refusal));
                self.sent(id, 0);
            }
        }
        true
    }

    /// This worker has been asked.
    pub fn examine(&mut self, asker: Asker, inquiry: Arc<ClientInquiry>) {
        self.work.push_back(Examination { asker, inquiry, next: 0, lines: Vec::new(), size: 0 });
    }

    /// Goes on with this in a later turn, since other clients of the worker wait.
    pub fn pause(&mut self, examination: Examination, effects: &mut Effects) {
        effects.timers.add(effects.now + TURN, Timer::Inquiries);
        self.paused.push(examination);
    }

    /// The later turn has come.
    pub fn resume(&mut self) {
        self.work.extend(self.paused.drain(..));
    }

    /// The host has asked so many other workers.
    pub fn sent(&mut self, id: InquiryId, others: usize) {
        if let Some(gathering) = self.asked.get_mut(&id) {
            gathering.others = Some(others);
        }
    }

    /// A worker has answered.
    pub fn answered(&mut self, id: InquiryId, answer: Answer) {
        if let Some(gathering) = self.asked.get_mut(&id) {
            gathering.answers.push(answer);
        }
    }

    /// The client whose command an inquiry is.
    pub fn owner(&self, asker: Asker) -> Option<Owner> {
        match asker {
            Asker::Here(id) => self.asked.get(&id).map(|gathering| gathering.owner),
            Asker::Elsewhere(_) => None,
        }
    }

    /// Has this answered to whoever has asked.
    pub fn tell(&mut self, asker: Asker, answer: Answer) {
        self.told.push_back((asker, answer));
    }

    /// Passes on what is to be answered, and removes and returns an inquiry to which there is nothing
    /// more to come; false with one that was given up. `None`: there is none.
    pub fn next_complete(&mut self, effects: &mut Effects) -> Option<(Gathering, bool)> {
        while let Some((asker, answer)) = self.told.pop_front() {
            match asker {
                Asker::Here(id) => self.answered(id, answer),
                Asker::Elsewhere(origin) => effects.outbox.push(Output::Tell(origin, answer)),
            }
        }
        let is_complete =
            |gathering: &Gathering| gathering.others.is_some_and(|others| gathering.answers.len() > others);
        let is_over = |gathering: &Gathering| is_complete(gathering) || gathering.due <= effects.now;
        let id = self.asked.iter().find(|(_, gathering)| is_over(gathering)).map(|(id, _)| *id)?;
        let gathering = self.asked.remove(&id)?;
        let is_complete = is_complete(&gathering);
        if self.paused.is_empty() && self.asked.values().all(|other| other.due != gathering.due) {
            effects.timers.cancel(gathering.due, Timer::Inquiries);
        }
        Some((gathering, is_complete))
    }

    /// A client waits at so many servers, and is to wait no longer there. Returns the number by which
    /// [`InquiryTable::ask_server`] knows it.
    pub fn begin_unblocking(&mut self, asker: Asker, reason: UnblockReason, servers: usize) -> u64 {
        self.last += 1;
        let unblocking = Unblocking { asker, reason, left: servers, is_unblocked: false, refusal: None };
        self.unblocking.insert(self.last, unblocking);
        self.last
    }

    /// A server is asked about a client that waits there. Returns the number of the question.
    pub fn ask_server(&mut self, question: ServerQuestion) -> u64 {
        self.last += 1;
        self.questions.insert(self.last, question);
        self.last
    }

    /// Removes and returns a question, since the server has answered it or won't.
    pub fn take_question(&mut self, id: u64) -> Option<ServerQuestion> {
        self.questions.remove(&id)
    }

    /// What the command of a client that is to wait no longer is answered.
    pub fn reason(&self, unblocking: u64) -> Option<UnblockReason> {
        self.unblocking.get(&unblocking).map(|unblocking| unblocking.reason)
    }

    /// A server has unblocked the client or not, or has refused to.
    pub fn server_done(&mut self, id: u64, outcome: Result<bool, String>) {
        let Some(unblocking) = self.unblocking.get_mut(&id) else { return };
        match outcome {
            Ok(is_unblocked) => unblocking.is_unblocked |= is_unblocked,
            Err(refusal) => unblocking.refusal = Some(refusal),
        }
        unblocking.left = unblocking.left.saturating_sub(1);
        if unblocking.left > 0 {
            return;
        }
        if let Some(Unblocking { asker, is_unblocked, refusal, .. }) = self.unblocking.remove(&id) {
            let answer = match refusal {
                Some(refusal) if !is_unblocked => Answer::Refused(refusal),
                _ => Answer::Unblocked(is_unblocked),
            };
            self.tell(asker, answer);
        }
    }
}
