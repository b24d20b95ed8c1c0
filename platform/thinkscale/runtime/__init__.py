"""What knows Ray: the session, segments, replicas, jobs and metering."""
