"""Building an atlas: pieces of work on files, from a cohort to its template and transformations."""
