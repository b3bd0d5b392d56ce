//! `publisher.publish_all(events)`: many at once.
