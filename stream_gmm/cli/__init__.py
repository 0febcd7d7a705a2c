"""The command line.

What lives here: the commands (:mod:`.commands`, :mod:`.data_commands`, :mod:`.setup` with :mod:`.doctor`,
:mod:`.streaming`), an option for every key of the configuration and the paths of the data (:mod:`.options`), help in
groups (:mod:`.help`), what a terminal or a log shows (:mod:`.display`), ``--json`` and ``--quiet`` (:mod:`.output`),
errors, signals and exit codes (:mod:`.endings`).

May import: everything, :mod:`stream_gmm.flows` included; nothing imports this room but ``__main__``.

Where to begin: :mod:`stream_gmm.cli.commands`.
"""
