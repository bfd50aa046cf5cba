-- Indexes on foreign keys: joins from the one to the many find their rows, deletes do not scan.
-- up
CREATE INDEX lot_product ON wms.lot (product_id);
CREATE INDEX lot_purchase_order ON wms.lot (purchase_order_id, line);
CREATE INDEX inventory_lot ON wms.inventory (lot_id);
CREATE INDEX sales_order_customer ON wms.sales_order (customer_id);
CREATE INDEX sales_order_line_product ON wms.sales_order_line (product_id);
CREATE INDEX shipment_order ON wms.shipment (order_id);
CREATE INDEX shipment_line_order ON wms.shipment_line (order_id, line);
CREATE INDEX shipment_line_lot ON wms.shipment_line (lot_id);
CREATE INDEX movement_lot ON wms.movement (lot_id);
CREATE INDEX movement_order ON wms.movement (order_id, line) WHERE order_id IS NOT NULL;
CREATE INDEX location_zone ON wms.location (zone_id);
CREATE INDEX purchase_order_line_product ON wms.purchase_order_line (product_id);
-- down
DROP INDEX wms.lot_product, wms.lot_purchase_order, wms.inventory_lot, wms.sales_order_customer,
    wms.sales_order_line_product, wms.shipment_order, wms.shipment_line_order, wms.shipment_line_lot, wms.movement_lot,
    wms.movement_order, wms.location_zone, wms.purchase_order_line_product;
