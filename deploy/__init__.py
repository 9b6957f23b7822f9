"""What the production image and the chart are made with."""
