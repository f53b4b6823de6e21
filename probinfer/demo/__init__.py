"""The example behind `probinfer demo`: radon in Minnesota houses. Start reading in radon.py; copy it for your own model."""
