"""What users look things up in, made from what the program itself goes by: `make reference` writes it.

Settings come from the models of `famezd.config`, options from the commands' parsers, metrics from the collector. What
is made is committed, and a test tells when it is not up to date: so a package needs only to copy it, anybody can read
it without a build, and a change shows in the same diff as its cause.
"""
