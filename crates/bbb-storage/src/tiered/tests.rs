//! Tests of both tiers together: a disk near, and far a store whose faults and pace the test decides.

mod bucket;
mod fetches;
mod rig;
mod roads;
mod stack;
mod stress;
mod write_back;
mod writes;
