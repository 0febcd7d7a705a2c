"""The command line.

What lives here: the commands (:mod:`.commands`, :mod:`.streaming`), an option for every key of the configuration
(:mod:`.options`), and what a terminal or a log shows (:mod:`.display`).

May import: everything, :mod:`flows` included; nothing imports this room but ``__main__``.

Where to begin: :mod:`stream_gmm.cli.commands`.
"""
