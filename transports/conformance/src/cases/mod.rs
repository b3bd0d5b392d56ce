//! The cases, a file for each law, and the one list of them.

mod api;
mod law_01;
mod law_02;
mod law_03;
mod law_04;
mod law_05;
mod law_06;
mod law_07;
mod law_08;
mod law_09;
mod law_10;
mod law_11;
mod law_12;
mod law_13;
mod law_14;
mod law_15;
mod law_16;

use busway::{Capability, DeadLetter, Event};

use crate::run::Case;
use crate::verdict::Failed;
use crate::world::Participant;

/// The one list of all cases: gives it to the macro `$then` of this crate. A case that needs a
/// capability names it, and asserts the refusal, or the declared difference, where it is missing.
#[doc(hidden)]
#[macro_export]
macro_rules! __cases {
    ($then:ident ($($arguments:tt)*)) => { $crate::$then! { ($($arguments)*)
        law_01 {
            stream_sees_what_is_published_after_it: "a stream sees every event that a peer publishes after it was opened";
            handler_sees_what_is_published_after_it: "so does a handler, also right after another was unsubscribed";
            addressee_sees_what_is_published_after_it: "so does a new endpoint what is addressed to it, when its bus was interested before";
            responder_answers_what_is_asked_after_it: "a responder answers every request asked after it was registered";
            member_gets_what_is_published_after_it: "a group's first member gets what is published after it joined";
            late_bus_hears_and_is_heard: "a bus that was just opened hears the others and is heard, without a barrier";
        }
        law_02 {
            one_publishers_events_arrive_in_order: "2,000 events of one publisher arrive in order, here and on two other buses";
            batches_and_single_events_keep_their_order: "batches and single events of one publisher arrive in order, here and on another bus";
            publishers_do_not_mix_up_each_others_order: "three publishers at once keep each its own order";
            futures_in_flight_keep_the_order_of_their_first_polls: "200 publishes in flight arrive in the order of their first polls";
            group_of_one_keeps_first_attempts_in_order: "a group with concurrency 1 keeps first attempts in order, with failures between";
        }
        law_03 {
            every_fate_is_counted: "handled, failed and filtered events are counted, on the publisher's bus and another";
            losses_are_counted_by_reason: "undecodable, foreign and overflowing events are counted by reason";
            group_work_is_counted_by_fate: "attempts of group work are counted as handled, failed, filtered or dead-lettered";
            duplicates_are_counted: "deduplicate drops and counts an id that was handled, and none that failed or was forgotten";
        }
        law_04 {
            overflow_is_told_in_its_place: "DropOldest and DropNewest tell a gap where the events were lost, Latest none";
            overflow_of_remote_events_is_told_in_its_place: "so they do for events of a peer";
            undecodable_payload_is_a_gap_in_its_place: "two Rust types of one name reach each other through the codec, or a gap says why not";
            foreign_version_is_a_gap_in_its_place: "an event of another version is a gap that names both versions";
            handler_without_on_gap_tells_the_bus: "a gap goes to on_gap, or else is a notice on the bus";
            wrong_version_in_a_group_is_dead_lettered_at_once: "a group's event of another version is a dead letter after one attempt";
        }
        law_05 {
            full_remote_subscriber_holds_its_publisher_and_is_named [NamedBackPressure]: "a full subscriber on another bus holds its publisher, whose time-out names it";
            full_group_holds_its_publisher_and_is_named [NamedBackPressure]: "a full group holds its publisher, whose time-out names it; or refuses it by a typed error";
            full_local_subscriber_is_waited_for_and_named: "a full subscriber on the same bus holds its publisher, which goes on when there is room";
            try_publish_gives_the_event_back: "try_publish names who is in the way and gives the event back, outside of a runtime too";
            overflow_fail_fails_the_publisher: "Overflow::Fail fails the publisher at once";
        }
        law_06 {
            stuck_subscriber_holds_up_nothing_else: "a stuck handler holds up no other event, request, ack or subscription between two buses";
            stuck_subscriber_on_the_same_bus_holds_up_nothing_else: "nor on its own bus";
            slow_responder_holds_up_nothing_else: "a responder that is busy holds up no events";
        }
        law_07 {
            each_event_goes_to_one_member: "300 events go to three members on three buses, each event once, and to all members";
            failed_event_is_attempted_again_and_then_dead_lettered: "a failing event is attempted as often as asked, and is then listed once, with reason and origin";
            panic_and_time_out_count_as_failures: "a panic and a handler's time-out are failures like an error";
            work_of_a_dead_member_goes_to_another: "what a dead member held goes to another under the same id";
            work_waits_for_the_next_member_when_the_last_died: "events for a group whose last member died wait for the next";
            work_goes_to_others_when_a_member_leaves: "a leaving member finishes what is in work, and leaves the rest to others";
            groups_and_plain_subscriptions_each_get_their_copy: "each group and each plain subscription gets its copy";
            dead_letter_tells_how_it_died: "a dead letter tells when its first and last attempt began, and can be decoded or read raw";
            replayed_letter_comes_back_and_is_listed_no_longer: "dead letters are replayed, by id or all, and come back under their ids from attempt 1; or are purged";
            letters_are_replayed_once_by_two_at_once: "replays at the same time replay each letter once";
            each_key_keeps_its_order: "with by_key each key's events are handled in order, one at a time, over two members of concurrency 4";
            failing_key_waits_in_place_and_blocks_no_other: "a failing key is attempted again in place, blocks no other key, and goes on behind a dead letter";
            keys_of_a_leaving_member_go_to_another_in_order: "the keys of a member that leaves go to another, in order";
            keys_of_a_dead_member_go_to_another_in_order: "so do those of a member that dies, with what it held first";
        }
        law_08 {
            response_arrives: "each of 100 requests in flight gets its own response; the responder knows who asks";
            typed_error_arrives: "the responder's own typed error arrives, and the default one";
            nobody_there_is_said_at_once: "NoResponder comes at once, also at a named endpoint";
            unanswered_request_times_out_and_a_late_answer_harms_nothing: "a request times out; its handler goes on, and the late answer goes nowhere";
            expired_request_is_not_run: "a request that expired while it waited is not run";
            panicking_responder_disconnects_its_caller_only: "a responder's panic is Disconnected for its caller, and for no other";
            question_of_another_form_is_undecodable: "a request that its responder cannot read is Undecodable";
            death_of_the_responder_is_seen [SeesResponderDeath]: "a request ends in Disconnected when its responder's bus dies, and NoResponder follows";
            closing_the_callers_bus_cancels: "a request is Cancelled when its own bus is closed";
            dropped_request_tells_its_responder [RemoteCancellation]: "dropping a request tells its responder long before the deadline, and cuts nothing off";
            leaving_responder_finishes_what_it_answers: "a closing bus answers what it took, while another responder takes over";
        }
        law_09 {
            receipt_counts_whom_it_reached [CountedReceipts]: "a receipt counts and names subscriptions and groups, on all buses";
            required_subscriber_that_is_not_there_is_an_error: "require_subscriber makes nobody an error, and nobody got the event";
            failed_publish_reached_nobody: "a publish that timed out, was refused or was dropped while it waited left no trace on any bus";
            failed_publish_to_a_full_peer_reached_nobody [NamedBackPressure]: "nor when a peer was the one in the way";
            failed_publish_takes_no_room [NamedBackPressure]: "and it takes no room of those who were not";
            retry_keeps_its_id: "a publish under a given id arrives with it";
        }
        law_10 {
            endpoint_alone_can_do_everything: "every call and wait works with one endpoint and no peer";
            group_wakes_who_waits_for_a_subscriber: "a group's member counts as a subscriber that one can wait for";
            not_own_passes_over_own_events_only: "not_own passes over what this endpoint published on this bus, and nothing else";
            own_events_are_not_echoed: "a bus's own plain events come once";
        }
        law_11 {
            failing_handlers_stop_nothing: "errors and panics in handlers, filters and responders are counted and stop nothing";
            panicking_decoder_is_a_gap_and_stops_nothing: "a decoder that panics on a peer's event is a gap in its place and stops nothing";
        }
        law_12 {
            close_waits_for_what_was_accepted: "close waits for handlers; streams keep what they hold, and then end";
            closed_bus_takes_nothing: "each verb on a closed bus says that it is closed";
            close_inside_a_handler_is_an_error_at_once: "closing from inside a handler or responder is an error at once";
            work_in_a_handler_is_finished_and_acked: "group work that a closing bus holds is finished and acked";
            close_of_the_publisher_waits_for_its_group_work: "nothing that a closing publisher gave to a group is lost";
            drain_deadline_is_an_error: "a drain that takes too long is an error that counts what was cut off";
        }
        law_13 {
            dead_peer_vanishes_with_its_registrations: "a bus that died is told, and its endpoints, subscriptions and responders vanish";
            dead_subscriber_lets_go_of_its_publisher: "a publisher that waits for a full subscriber goes on when that dies";
            restart_on_the_same_names_works_at_once: "a new bus takes the dead one's endpoints, groups and responders at once";
        }
        law_14 {
            status_is_observable: "the status and the coming of peers are observable";
        }
        law_15 {
            dropped_reads_lose_nothing: "reads that are dropped after one poll lose nothing";
            dropped_waits_leave_nothing_behind: "waits and subscriptions that are dropped half-way leave nothing behind";
            what_is_given_up_is_withdrawn: "a stream that is dropped, a subscription and a responder that are ended are withdrawn";
            dropped_publishes_reach_everybody_or_nobody: "publishes that are dropped after one poll reach everybody or nobody";
            dropped_requests_disturb_no_others: "requests that are dropped after one poll disturb no others";
            dropped_close_is_gone_on_with: "a close that was dropped is gone on with";
        }
        law_16 {
            durable_group_survives_or_is_refused [DurableGroups]: "a durable group's work survives everyone, and it is removed only when nobody needs it, or forced; or asking for it is refused";
            capabilities_are_consistent: "what a transport says of itself is consistent";
            too_large_payload_is_refused: "a megabyte goes through, and what is over the limit is refused";
            unknown_scheme_names_those_that_are_there: "an unknown scheme names those that are there, this one among them";
        }
        api {
            metadata_crosses: "id, time, source and headers are the same for all who receive an event";
            addressed_event_reaches_that_endpoint_only: "an addressed event reaches that endpoint's subscriptions and groups, on every bus where it lives";
            options_choose_what_arrives: "from, filter and take choose what arrives";
            untyped_subscription_gets_what_its_filter_matches: "an untyped subscription gets what its filter matches, and can decode it";
            local_events_never_leave: "local events and local publishes never leave their process";
            requests_go_to_the_named_endpoint: "a request goes to the endpoint it names, else to its own bus first";
            peers_and_barrier_know_who_is_there: "the barrier waits for all; peers tell who is there, and when they left";
            values_cross_as_they_are_or_through_the_codec [InProcess]: "an event is decoded at most once per process, and in process not at all";
        }
    } };
}

/// Makes the array of all cases.
#[doc(hidden)]
#[macro_export]
macro_rules! __table {
    (() $( $group:ident { $( $name:ident $([$needs:ident])? : $shows:literal; )* } )*) => {
        &[ $( $( Case {
            group: stringify!($group),
            name: stringify!($name),
            shows: $shows,
            needs: first(&[$(Capability::$needs)?]),
            run: |world| Box::pin($group::$name(world)),
        }, )* )* ]
    };
}

/// Makes a test of each case.
#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    (($harness:expr) $( $group:ident { $( $name:ident $([$needs:ident])? : $shows:literal; )* } )*) => {
        $(
            mod $group {
                #[allow(unused_imports, reason = "the harness may be named by its full path")]
                use super::*;
                $(
                    #[test]
                    fn $name() {
                        $crate::check($harness, stringify!($group), stringify!($name));
                    }
                )*
            }
        )*
    };
}

/// The capability that a case needs, if it names one.
const fn first(named: &[Capability]) -> Option<Capability> {
    match named {
        [first, ..] => Some(*first),
        [] => None,
    }
}

/// Every case of the kit, in the order of the laws.
pub fn cases() -> &'static [Case] {
    static CASES: &[Case] = __cases!(__table());
    CASES
}

/// The dead letters of a group, once there are so many of them. Keeps the books.
async fn dead_letters<E: Event>(
    at: &Participant,
    group: &str,
    count: usize,
) -> Result<Vec<DeadLetter<E>>, Failed> {
    loop {
        // Nothing tells on every transport when a letter is listed: to ask is all one can do.
        let letters = at.dead_letters::<E>(group).await?;
        if letters.len() >= count {
            for letter in &letters {
                at.books().seen(letter.envelope.id);
            }
            assert_eq!(letters.len(), count, "{letters:?}");
            return Ok(letters);
        }
        tokio::task::yield_now().await;
    }
}
