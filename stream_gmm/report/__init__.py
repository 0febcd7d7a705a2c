"""The report of a run: one HTML file that needs nothing else, and from which no request leaves.

What lives here: the page (:mod:`.html`; templates, style sheet and script in ``page``), what it says (:mod:`.facts`,
:mod:`.advice`, :mod:`.portraits`), its tables (:mod:`.tables`) and its pictures (:mod:`.figures`), which
:mod:`stream_gmm.plot` draws and :mod:`.svg` puts into the page in the colours of :mod:`.colours`. All of it takes the
:class:`.contents.RunContents` of a run folder.

May import: everything but the command line and the flows.

Where to begin: :func:`stream_gmm.report.html.write_report`.
"""
