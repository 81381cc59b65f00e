"""SVG charts: one code for the charts of the report and for the pictures that are logged to MLflow."""
