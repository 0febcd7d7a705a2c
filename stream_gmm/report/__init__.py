"""The report of a run: one HTML file that needs nothing else.

What lives here: the page (:mod:`.html`, with ``template.html``) and its pictures (:mod:`.figures`), which
:mod:`stream_gmm.plot` draws.

May import: everything but the command line and the flows.

Where to begin: :func:`stream_gmm.report.html.write_report`.
"""
