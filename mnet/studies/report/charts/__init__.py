"""The charts of results. Each is one function that returns one Altair chart, for the report, notebooks and image files.

The report draws them interactively in the page's own colours (`export.page_spec`), a notebook shows them as they are,
and `export.save_png` and `export.save_svg` write files.
"""
