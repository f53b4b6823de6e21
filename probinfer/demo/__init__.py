"""The example behind `probinfer demo`: radon in Minnesota houses. Read radon.py first; copy it for your own model."""
