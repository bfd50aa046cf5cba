-- Indexes for searches: by time, by state of work that is open, and with the columns that reports read.
-- up
CREATE INDEX sales_order_placed ON wms.sales_order (placed_at) INCLUDE (id, customer_id, warehouse_id, status);
CREATE INDEX sales_order_open ON wms.sales_order (warehouse_id, status, placed_at)
    WHERE status IN ('new', 'allocated', 'picked', 'packed');
CREATE INDEX shipment_shipped ON wms.shipment (shipped_at);
CREATE INDEX purchase_order_ordered ON wms.purchase_order (ordered_at);
CREATE INDEX purchase_order_open ON wms.purchase_order (warehouse_id, expected_on) WHERE status = 'open';
CREATE INDEX lot_expires ON wms.lot (expires_on) WHERE expires_on IS NOT NULL;
CREATE INDEX movement_picked ON wms.movement (moved_at) INCLUDE (lot_id, employee_id, from_location_id, qty) WHERE kind = 'pick';
CREATE INDEX inventory_full ON wms.inventory (lot_id) INCLUDE (location_id, on_hand, reserved) WHERE on_hand > 0;
-- down
DROP INDEX wms.sales_order_placed, wms.sales_order_open, wms.shipment_shipped, wms.purchase_order_ordered,
    wms.purchase_order_open, wms.lot_expires, wms.movement_picked, wms.inventory_full;
