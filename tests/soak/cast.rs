//! The queues of a soak: what each can do, who reads it, and where its messages go that must leave.
//!
//! Invariant: a queue's part never changes, so what is said here holds for every life of a server.

use crate::history::Moves;
use crate::traffic::queue_name;

/// What a queue is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// It keeps messages, and whatever can be asked of a queue is.
    Plain,
    /// Besides its plain readers it has groups.
    Groups,
    /// It has groups and no plain readers.
    GroupsOnly,
    /// It admits [`ADMITTED`] messages in its life.
    Gate,
    /// It refuses what is above [`HELD`] messages.
    Refusing,
    /// It drops its oldest message when it has [`HELD`].
    Dropping,
    /// Its messages have a time, after which they go to [`LATE`].
    Mortal,
    /// Its messages go to [`DEAD`] when they have come back [`DELIVERIES`] times.
    Work,
    /// As `Work`, and open reads end by themselves.
    Hasty,
    /// It is emptied now and then.
    Flushed,
    /// It has groups, and drops its oldest message for all its readers when it has [`HELD_SHARED`].
    SharedDropping,
    /// It has groups, of which [`EMPTIED`] is emptied now and then.
    SharedFlushed,
    /// It has groups, and each reader's messages go to [`SHARED_DEAD`] when they have come back to it [`DELIVERIES`] times.
    SharedWork,
    /// Besides its plain readers it has groups of which each is asked for a while, and ends when nobody has asked it for a second.
    Fleeting,
    /// Where messages of others go.
    Target,
}

/// The queues by their numbers, whose names are [`queue_name`]. Several of a kind: which shard has which is left to their names.
pub const QUEUES: [Part; 21] = [
    Part::Plain,
    Part::Plain,
    Part::Plain,
    Part::Groups,
    Part::GroupsOnly,
    Part::Gate,
    Part::Refusing,
    Part::Dropping,
    Part::Mortal,
    Part::Mortal,
    Part::Mortal,
    Part::Work,
    Part::Hasty,
    Part::Flushed,
    Part::Target,
    Part::Target,
    Part::SharedDropping,
    Part::SharedFlushed,
    Part::SharedWork,
    Part::Fleeting,
    Part::Target,
];

/// Where messages go whose time is over.
pub const LATE: u32 = 14;
/// Where messages go that were delivered too often.
pub const DEAD: u32 = 15;
/// Where messages go that were delivered too often to a reader of a queue with groups.
pub const SHARED_DEAD: u32 = 20;
/// How many messages a gate admits.
pub const ADMITTED: u64 = 400;
/// How many messages a queue holds that has a bound.
pub const HELD: u64 = 60;
/// As many where groups share it, who have more of them open.
pub const HELD_SHARED: u64 = 120;
/// How often a message may come back.
pub const DELIVERIES: u64 = 2;

/// Who reads a queue: its plain readers, or a group by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reader {
    /// Whoever names no group.
    Plain,
    /// One of [`GROUPS`], which stay.
    Group(usize),
    /// One of [`FLEETING`], which may end and begin anew.
    Fleeting(usize),
}

/// The groups. The clients of the last take messages for good, those of the others confirm them.
pub const GROUPS: [&str; 3] = ["a", "b", "c"];

/// The clients of this group take messages for good.
pub const TAKING: Reader = Reader::Group(2);

/// The group that is emptied where one is.
pub const EMPTIED: Reader = Reader::Group(1);

/// Groups of queues where groups end.
pub const FLEETING: [usize; 4] = [0, 1, 2, 3];

/// How long one of these is asked until it is the next one's turn, µs: so long that each of them ends meanwhile.
pub const ASKED: u64 = 400_000;

/// All readers whose messages come to them once.
pub const READERS: [Reader; 4] = [Reader::Plain, Reader::Group(0), Reader::Group(1), Reader::Group(2)];

/// What a queue is for.
pub fn part(queue: u32) -> Part {
    QUEUES[queue as usize]
}

/// The numbers of all queues.
pub fn queues() -> impl Iterator<Item = u32> {
    0..QUEUES.len() as u32
}

/// Who reads a queue.
pub fn readers(queue: u32) -> &'static [Reader] {
    match part(queue) {
        Part::Groups | Part::SharedDropping | Part::SharedFlushed | Part::SharedWork => &READERS,
        Part::GroupsOnly => &READERS[1..],
        _ => &READERS[..1],
    }
}

/// The settings that make a queue what it is, as `config` takes them.
pub fn settings(queue: u32) -> Option<String> {
    Some(match part(queue) {
        Part::GroupsOnly => "groups_only=on".to_owned(),
        Part::Gate => format!("max_admissions={ADMITTED}"),
        Part::Refusing => format!("max_messages={HELD}"),
        Part::Dropping => format!("max_messages={HELD} when_full=drop_oldest"),
        Part::Mortal => format!("exptime=honour expire_to={}", queue_name(LATE)),
        Part::Work => format!("max_deliveries={DELIVERIES} dead_letter={}", queue_name(DEAD)),
        Part::Hasty => format!("max_deliveries={DELIVERIES} dead_letter={} visibility_timeout=1", queue_name(DEAD)),
        Part::SharedDropping => format!("max_messages={HELD_SHARED} when_full=drop_oldest"),
        Part::SharedWork => format!("max_deliveries={DELIVERIES} dead_letter={}", queue_name(SHARED_DEAD)),
        Part::Fleeting => "group_timeout=1".to_owned(),
        Part::Plain | Part::Groups | Part::Flushed | Part::SharedFlushed | Part::Target => return None,
    })
}

/// Where the messages of a queue go that must leave it.
pub fn moves(queue: u32) -> Option<Moves> {
    match part(queue) {
        Part::Mortal => Some(Moves::Expired(LATE)),
        Part::Work | Part::Hasty => Some(Moves::Delivered(DEAD, DELIVERIES)),
        Part::SharedWork => Some(Moves::Away(DELIVERIES)),
        _ => None,
    }
}

/// Whether a put may be answered `NOT_STORED`.
pub fn refuses(queue: u32) -> bool {
    matches!(part(queue), Part::Gate | Part::Refusing)
}

/// Whether a reader's messages are dropped now and then, open ones too, by somebody who says so.
pub fn is_emptied(queue: u32, reader: Reader) -> bool {
    part(queue) == Part::Flushed || part(queue) == Part::SharedFlushed && reader == EMPTIED
}

/// Whether a put may go straight to who waits, which a crash may not count: not where there is a limit.
pub fn hands_over(queue: u32) -> bool {
    !matches!(part(queue), Part::Gate | Part::Refusing | Part::Dropping | Part::SharedDropping)
}
