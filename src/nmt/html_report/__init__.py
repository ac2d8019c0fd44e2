"""`reports/report.html`: one page that holds everything it shows, and asks no network for anything."""
