"""From a response to a verdict: extraction, equivalence, voting, the judge."""
